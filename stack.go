package activity

import (
	"fmt"
	"runtime"

	"github.com/seed-9da638b0/activity/internal/stackdump"
)

// A dump says where the attempts were at an instant. All attempts that stall at that
// instant share it.
type dump struct {
	stacks stackdump.Dump
	none   string // the reason, if there are no stacks
}

// stackLocked returns where t's function is, or why that is not known. Holding
// Runtime.mu costs nothing meanwhile, because the dump stops the world.
func (rt *Runtime) stackLocked(t *attempt) ([]byte, string) {
	s := &rt.scheduler
	if s.stacks == nil {
		s.stacks = rt.dumpStacks()
	}
	return s.stacks.of(t)
}

// of returns where t's function was, or why that is not known.
func (d *dump) of(t *attempt) ([]byte, string) {
	if d.none != "" {
		return nil, d.none
	}
	if s := d.stacks.Stack(t); s != nil {
		return s, ""
	}
	return nil, "the function had just returned"
}

// dumpStacks needs Runtime.mu.
func (rt *Runtime) dumpStacks() *dump {
	if n := runtime.NumGoroutine(); n > stackdump.MaxGoroutines {
		return &dump{none: fmt.Sprintf("there are %d goroutines, and no dump is taken of more than %d", n, stackdump.MaxGoroutines)}
	}
	if rt.now < rt.scheduler.noDumpBefore {
		return &dump{none: fmt.Sprintf("dumps may take a %dth of the time, and one was taken just before", stackdump.Share)}
	}
	begin := rt.read()
	d := &dump{stacks: stackdump.Take("activity.(*attempt).call")}
	end := rt.read()
	rt.scheduler.noDumpBefore = end.add(stackdump.Rest(end.since(begin)))
	return d
}
