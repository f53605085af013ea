package activitytest

import (
	"fmt"
	"time"
)

// A place is where a process can be interrupted. It is counted for each activity.
type place struct {
	id    string // the activity's; "": the process's own
	what  string // "before heartbeat", "entering guard", "at point", ...
	point string // the name of a point
	n     int    // from 1, of those with the same what and point
}

func (p place) String() string { return fmt.Sprintf("%s of %s", p.here(), label(p.id)) }

// here leaves out whose place it is.
func (p place) here() string {
	if p.point != "" {
		return fmt.Sprintf("%s %q %d", p.what, p.point, p.n)
	}
	return fmt.Sprintf("%s %d", p.what, p.n)
}

// name is that in a subtest's name.
func (p place) name(withID bool) string {
	name := p.what
	if p.point != "" {
		name += " " + p.point
	}
	name = fmt.Sprintf("%s_%d", word(name), p.n)
	switch {
	case !withID:
	case p.id == "":
		name += "_of_the_process"
	default:
		name += "_of_" + word(p.id)
	}
	return name
}

// label is how texts name an activity.
func label(id string) string {
	if id == "" {
		return "the process itself"
	}
	return fmt.Sprintf("activity %q", id)
}

// A placed is a place as the dry run came to it, and what is possible there.
type placed struct {
	place
	canStall bool
	unsaved  int // recorded details that the Store did not hold
}

// A call is what an activity does that the World sees.
type call struct {
	kind    string        // "Sleep", "Heartbeat", ...
	d       time.Duration // of a Sleep
	point   string
	details bool // of a Heartbeat
}

func (c call) String() string {
	switch {
	case c.kind == "":
		return "nothing more"
	case c.kind == "Sleep":
		return fmt.Sprintf("Sleep(%s)", c.d)
	case c.details:
		return c.kind + " with details"
	case c.point != "":
		return fmt.Sprintf("Point(%q)", c.point)
	}
	return c.kind
}
