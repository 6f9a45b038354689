from types import SimpleNamespace
from migkit.explanation.course import course
from migkit.explanation.trend import trend
from migkit.explanation.verdict import verdict
def examine(tr):
    c=course(tr); r=trend(c)
    return SimpleNamespace(verdict=verdict(c,r),trend=r,course=c)
