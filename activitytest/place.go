package activitytest

import (
	"fmt"
	"hash/maphash"
	"runtime"
	"time"
)

// A place is a point in an activity's or a process's run where it can be interrupted.
type place struct {
	id    string // ID of the activity, or "" if the process itself is at the place
	body  body   // body of a RangeParallel that is at the place, if any
	what  string // kind of place: "before heartbeat", "entering guard", "at point", ...
	point string // name of a Point, method and path of a request, statement or file
	n     int    // number, from 1, among the places that are otherwise the same
}

func (p place) String() string { return fmt.Sprintf("%s of %s", p.here(), label(p.id)) }

// here describes the place without the activity.
func (p place) here() string {
	s := p.what
	if p.point != "" {
		s += fmt.Sprintf(" %q", p.point)
	}
	s += fmt.Sprintf(" %d", p.n)
	if p.body.ok {
		s += " of " + p.body.String()
	}
	return s
}

// name returns the place's part of a subtest's name.
func (p place) name(withID bool) string {
	name := p.what
	if p.point != "" {
		name += " " + p.point
	}
	name = fmt.Sprintf("%s_%d", word(name), p.n)
	if p.body.ok {
		name += "_of_" + word(p.body.String())
	}
	switch {
	case !withID:
	case p.id == "":
		name += "_of_the_process"
	default:
		name += "_of_" + word(p.id)
	}
	return name
}

// label returns how messages name an activity.
func label(id string) string {
	if id == "" {
		return "the process itself"
	}
	return fmt.Sprintf("activity %q", id)
}

// A site is where the program is at a place: all calls on the goroutine's stack, and the kind of
// place. A loop passes many places of one site.
type site uint64

var siteSeed = maphash.MakeSeed()

// siteHere returns the site of the calling goroutine, of whose stack the callers of come count.
func siteHere(what, point string) site {
	var pcs [64]uintptr
	var h maphash.Hash
	h.SetSeed(siteSeed)
	for _, pc := range pcs[:runtime.Callers(3, pcs[:])] {
		maphash.WriteComparable(&h, pc)
	}
	maphash.WriteComparable(&h, what)
	maphash.WriteComparable(&h, point)
	return site(h.Sum64())
}

// A placed is a place that the dry run passed, with the interruptions possible there.
type placed struct {
	place
	site     site
	at       time.Time
	canStall bool
	canFault bool
	unsaved  int  // number of recorded details that the Store did not hold
	unsynced int  // number of changes to files that a power loss may lose
	last     bool // whether the process has returned, so that only a power loss is possible
}

// A call is a call by an activity that the World sees.
type call struct {
	kind    string        // "Sleep", "Heartbeat", ...
	d       time.Duration // duration of a Sleep
	point   string        // as in place
	details bool          // whether a Heartbeat has details
}

func (c call) String() string {
	switch {
	case c.kind == "Sleep":
		return fmt.Sprintf("Sleep(%s)", c.d)
	case c.details:
		return c.kind + " with details"
	case c.point != "":
		return fmt.Sprintf("%s(%q)", c.kind, c.point)
	}
	return c.kind
}
