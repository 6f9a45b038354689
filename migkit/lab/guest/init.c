/* The guest of migkit's lab: the only program in it, started by the kernel as init.
 *
 * One process beats on the serial port, another dirties memory and checks it. Everything is set on the kernel's command
 * line, which hands unknown key=value pairs to init as its environment:
 *
 *   pattern      idle, sequential, random, hotcold, bursty or zero (in order, but every page it writes stays all zero)
 *   ws_mib       working set in MiB
 *   ws_end_mib, ramp_s   the working set it ends with, and how long it grows or shrinks until then; 0: it stays
 *   rate_mibps   how much of it is written a second, in MiB (one write dirties one page)
 *   burst_on_s, burst_off_s   bursty: how long it writes, and how long it rests
 *   rest_mibps   bursty: what it writes a second in a rest
 *   hot_ratio    hotcold: the share of the working set that takes nine writes of ten
 *   cpu_bound    1: the rate is paced by work, not by the clock, so that a throttled processor writes less
 *   seed         begins the random numbers
 *   hb_ms        the heartbeat's interval
 *   flush_ms     how often the processor's TLB is flushed; 0: never (see migkit/lab/guest.py for why)
 *
 * Lines on the serial port: "hb N" a beat; "ready W" working set filled, W pages; "ok N W" N-th check of the whole
 * working set was clean, W pages written so far; "bad P W" page P does not hold what was written to it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, SCRATCH_PAGES = 64, TICK_US = 2000, CHECK_PAGES = 64 };

static int serial;
static uint64_t (*pages)[WORDS];
static uint32_t *expected; /* how often each page was written */
static uint64_t page_count, used_count, written, bad_count, spin_per_page, state = 88172645463325252ULL;
static int zeroes;
static char *scratch;

static double setting(const char *name, double otherwise) {
    const char *text = getenv(name);
    return text ? atof(text) : otherwise;
}

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void sleep_until_us(int64_t us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void say(const char *word, uint64_t a, uint64_t b) {
    char line[96];
    int length = snprintf(line, sizeof line, "%s %llu %llu\n", word, (unsigned long long)a, (unsigned long long)b);
    if (write(serial, line, length) != length) _exit(1);
}

static void open_serial(void) {
    struct termios t;
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    serial = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    if (serial < 0) _exit(1);
    tcgetattr(serial, &t);
    cfmakeraw(&t);
    cfsetspeed(&t, B115200);
    tcsetattr(serial, TCSANOW, &t);
}

/* Beats before everything else, so that a busy guest does not look like a paused one. */
static void beat(void) {
    struct sched_param p = {.sched_priority = 50};
    sched_setscheduler(0, SCHED_FIFO, &p);
    int64_t interval = (int64_t)(setting("hb_ms", 10) * 1000), next = now_us();
    for (uint64_t n = 0;; n++) {
        char line[32];
        int length = snprintf(line, sizeof line, "hb %llu\n", (unsigned long long)n);
        if (write(serial, line, length) != length) _exit(1);
        next += interval;
        int64_t now = now_us();
        if (next < now) next = now; /* no catching up after a pause */
        sleep_until_us(next);
    }
}

static uint64_t mix(uint64_t x) {
    x ^= x >> 33, x *= 0xff51afd7ed558ccdULL, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}

static uint64_t stamp(uint64_t page) { return zeroes ? 0 : mix(page << 32 | expected[page]) | 1; }

static void check(uint64_t page) {
    uint64_t want = stamp(page), *words = pages[page];
    if (words[0] == want && words[WORDS / 2] == want && words[WORDS - 1] == want) return;
    if (bad_count++ < 20) say("bad", page, written);
    words[0] = words[WORDS / 2] = words[WORDS - 1] = want;
}

static void dirty(uint64_t page) {
    check(page);
    expected[page]++;
    uint64_t value = stamp(page);
    pages[page][0] = pages[page][WORDS / 2] = pages[page][WORDS - 1] = value;
    written++;
}

/* Checks the working set a few pages at a time; one clean round ends with "ok". */
static void check_some(void) {
    static uint64_t next, round, bad_before;
    for (int i = 0; i < CHECK_PAGES; i++) {
        check(next++);
        if (next < page_count) continue;
        if (bad_count == bad_before) say("ok", ++round, written);
        next = 0, bad_before = bad_count;
        return;
    }
}

/* Taking write permission from more pages than the kernel flushes one by one makes it reload CR3. */
static void flush_tlb(void) {
    for (int i = 0; i < SCRATCH_PAGES; i++) scratch[i * PAGE]++;
    mprotect(scratch, SCRATCH_PAGES * PAGE, PROT_READ);
    mprotect(scratch, SCRATCH_PAGES * PAGE, PROT_READ | PROT_WRITE);
}

static void *memory(uint64_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) _exit(1);
    madvise(p, bytes, MADV_NOHUGEPAGE);
    return p;
}

static uint64_t choose(const char *pattern, double hot_ratio) {
    static uint64_t next;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    if (!strcmp(pattern, "random")) return state % used_count;
    if (!strcmp(pattern, "hotcold")) {
        uint64_t hot = (uint64_t)(used_count * hot_ratio);
        if (hot < 1) hot = 1;
        if (hot >= used_count || (state >> 40) % 10) return state % hot;
        return hot + state % (used_count - hot);
    }
    return next++ % used_count;
}

static void spin(uint64_t rounds) {
    for (volatile uint64_t i = 0; i < rounds; i++) {}
}

/* How much work between two pages makes the rate, when the processor is the guest's own. */
static uint64_t calibrate(double pages_per_s) {
    uint64_t rounds = 200000;
    int64_t start = now_us(), best = INT64_MAX;
    for (int i = 0; i < 10; i++) {
        start = now_us();
        spin(rounds);
        int64_t took = now_us() - start;
        if (took > 0 && took < best) best = took;
    }
    return (uint64_t)(1e6 / pages_per_s * rounds / best);
}

int main(void) {
    open_serial();
    if (fork() == 0) beat();

    const char *pattern = getenv("pattern") ? getenv("pattern") : "idle";
    double rate = setting("rate_mibps", 0) * 256, hot_ratio = setting("hot_ratio", 0.1);
    int64_t on = (int64_t)(setting("burst_on_s", 1) * 1e6), off = (int64_t)(setting("burst_off_s", 1) * 1e6);
    int64_t flush = (int64_t)(setting("flush_ms", 0) * 1000);
    double rest = setting("rest_mibps", 0) * 256, ws = setting("ws_mib", 16) * 256, ramp_us = setting("ramp_s", 0) * 1e6;
    double ws_end = setting("ws_end_mib", 0) > 0 ? setting("ws_end_mib", 0) * 256 : ws;
    int bursty = !strcmp(pattern, "bursty"), idle = !strcmp(pattern, "idle") || rate <= 0;
    state ^= mix((uint64_t)setting("seed", 0)), zeroes = !strcmp(pattern, "zero");
    page_count = (uint64_t)(ws > ws_end ? ws : ws_end);
    if (page_count < 1) page_count = 1;
    pages = memory(page_count * PAGE);
    expected = memory(page_count * sizeof *expected);
    scratch = memory(SCRATCH_PAGES * PAGE);
    for (uint64_t i = 0; i < page_count; i++) {
        uint64_t value = stamp(i);
        pages[i][0] = pages[i][WORDS / 2] = pages[i][WORDS - 1] = value;
    }
    int cpu_bound = setting("cpu_bound", 0) > 0 && !idle;
    if (cpu_bound) spin_per_page = calibrate(rate);
    say("ready", page_count, 0);

    int64_t begin = now_us(), last = begin, last_flush = begin, next = begin;
    double due = 0;
    for (;;) {
        int64_t now = now_us(), passed = now - last;
        last = now;
        if (passed > 50000) passed = 50000; /* what a pause held back is not written in one go */
        double speed = bursty && (now - begin) % (on + off) >= on ? rest : rate;
        double ramped = ramp_us > 0 && now - begin < ramp_us ? (now - begin) / ramp_us : 1;
        used_count = (uint64_t)(ws + (ws_end - ws) * ramped);
        if (used_count < 1) used_count = 1;
        int writes = !idle && speed > 0;
        if (writes && cpu_bound) {
            for (double n = speed * TICK_US / 1e6; n > 0; n--) spin(spin_per_page), dirty(choose(pattern, hot_ratio));
        } else if (writes) {
            for (due += speed * passed / 1e6; due >= 1; due--) dirty(choose(pattern, hot_ratio));
        }
        check_some();
        now = now_us();
        if (flush && now - last_flush >= flush) flush_tlb(), last_flush = now;
        next += TICK_US;
        if (next < now) next = now;
        if (!(writes && cpu_bound)) sleep_until_us(next);
    }
}
