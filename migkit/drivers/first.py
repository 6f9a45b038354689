from typing import Any, NamedTuple
import numpy as np
from migkit.drivers.record import Record
from migkit.drivers.schedule import schedules
from migkit.policies import base, polling, events
from migkit.policies.base import *
class Prepared(NamedTuple):
    wakes: Any; limit_ms: Any; fails: Any; age_ns: Any
class Firsts(NamedTuple):
    wake: Any; action: Any; argument: Any; reason: Any; changed_wake: Any; estimate_ms: Any; ewma_bps: Any
def prepare(rows, *, events):
    t=rows.trace()
    plan=schedules(t, events=events)[0]
    w=Record(t).wakes(plan)
    lim=t.meta.migration.downtime_limit_ms or 300
    return Prepared(w, np.full(len(w.t_ns),lim), np.zeros(len(w.t_ns)), plan.age_ns)
def firsts(p, rules, options, method=""):
    adv={"polling":polling.advance,"events":events.advance}[rules]
    wl=Wakes(*[c.tolist() for c in p.wakes]); n=len(wl.t_ns)
    out=[]
    for k in range(len(options[0])):
        o=Options(*[c[k].item() for c in options])
        s=PlainState(); base.reset(s,o); L=Lists(*([0]*(sum(wl.event)+1) for _ in range(4)))
        row=0; res=(-1,0,0,0); ch=-1
        while row<n:
            row,a,g,r=adv(s,L,o,wl,row,n)
            if a in (NONE,FINISH): break
            if a==SET_MAX_DOWNTIME and g<=p.limit_ms[row]:
                if g!=p.limit_ms[row] and ch<0: ch=row
                s.succeeded=1; continue
            if a==SET_MAX_DOWNTIME and ch<0: ch=row
            res=(row,a,g,r); break
        out.append((*res,ch,0,0.0))
    return Firsts(*[np.array(c) for c in zip(*out)])
