package activity

import (
	"fmt"
	"slices"
	"sync/atomic"
)

// Subscribe calls f with the events of these kinds, or of every kind if none is given, from
// now on, until cancel is called. Events of one activity are delivered in order and one at a
// time, the last one before Run returns. Events of different activities are delivered
// concurrently. Like Config.Observer, f must be quick, and must not wait for an activity. If it
// panics, the panic is logged.
//
// After cancel has returned, no call of f begins, but a call that has begun may still be
// running. cancel may be called several times, and by f.
//
// Heartbeats are by far the most frequent events. While nobody has subscribed to
// EventHeartbeat, and there is no Observer, events add nothing to their cost.
//
// Subscribe panics if f is nil, or a kind is unknown.
func (rt *Runtime) Subscribe(f func(Event), kinds ...EventKind) (cancel func()) {
	if f == nil {
		panic("activity: Subscribe: f must not be nil")
	}
	s := &subscriber{f: f, what: "a subscriber"}
	for _, k := range kinds {
		if k <= 0 || k > lastEventKind {
			panic(fmt.Sprintf("activity: Subscribe: unknown kind (got %s)", k))
		}
		s.kinds |= 1 << k
	}
	if len(kinds) == 0 {
		s.kinds = allKinds
	}
	rt.subscribers.add(s)
	return func() {
		s.canceled.Store(true)
		rt.subscribers.remove(s)
	}
}

// kindSet is a set of EventKinds, one bit each.
type kindSet uint32

const allKinds kindSet = 1<<(lastEventKind+1) - 1

func (s kindSet) has(k EventKind) bool { return s&(1<<k) != 0 }

// A subscriber gets events. Config.Observer is one of all kinds.
type subscriber struct {
	f        func(Event)
	kinds    kindSet
	what     string // for the log, if f panics
	canceled atomic.Bool
}

// subscribers are those of a Runtime. Heartbeats read them under activity.mu, so the list is
// replaced and never changed.
type subscribers struct {
	list atomic.Pointer[subscriberList]
}

type subscriberList struct {
	wanted kindSet // by any of all
	all    []*subscriber
}

// want reports whether somebody wants events of a kind.
func (s *subscribers) want(k EventKind) bool {
	list := s.list.Load()
	return list != nil && list.wanted.has(k)
}

func (s *subscribers) add(add *subscriber) {
	s.replace(func(all []*subscriber) []*subscriber { return append(all, add) })
}

func (s *subscribers) remove(remove *subscriber) {
	s.replace(func(all []*subscriber) []*subscriber {
		return slices.DeleteFunc(all, func(s *subscriber) bool { return s == remove })
	})
}

func (s *subscribers) replace(change func([]*subscriber) []*subscriber) {
	for {
		old, next := s.list.Load(), &subscriberList{}
		if old != nil {
			next.all = slices.Clone(old.all)
		}
		next.all = change(next.all)
		for _, s := range next.all {
			next.wanted |= s.kinds
		}
		if s.list.CompareAndSwap(old, next) {
			return
		}
	}
}

// tell calls f, unless the subscription was canceled.
func (s *subscriber) tell(rt *Runtime, a *activity, e Event) {
	if !s.canceled.Load() {
		rt.protect(a, s.what, func() { s.f(e) })
	}
}
