package activitytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Given a stall until a place that the next attempt never reaches, when that attempt returns,
// then the stalled one wakes.
func TestStall_WakesAtTheReturn(t *testing.T) {
	var lines []string
	body := func(t *testing.T, w *World) {
		lines = nil
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
				Point(ctx, "here")
				lines = append(lines, fmt.Sprint("attempt ", ctx.Info().Attempt))
				return nil
			})
		})
		if err != nil {
			t.Error(err)
		}
	}
	var p Plan
	if err := p.setDefaults(); err != nil {
		t.Fatal(err)
	}
	dry := newWorld(&p, nil, nil)
	dry.bubble(t, body)
	in := &interruption{kind: Stall, place: dry.places[0].place, until: 99}
	w := newWorld(&p, &run{name: in.name(false), interruptions: []*interruption{in}}, dry)
	w.bubble(t, body)
	if want := []string{"attempt 2", "attempt 1"}; !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
}

func TestPlan_SetDefaults(t *testing.T) {
	for _, test := range []struct {
		plan Plan
		want string // end of the error's text
	}{
		{Plan{Kinds: 64}, "Plan.Kinds must have no other bits than Crash, Stall, Shutdown, Twice and Fault (got Kind(64))"},
		{Plan{Kinds: Stall, PowerLoss: true}, "Plan.PowerLoss needs Crash among Plan.Kinds (got stall)"},
		{Plan{MaxRuns: -1}, "Plan.MaxRuns must not be negative (got -1)"},
		{Plan{Parallel: -1}, "Plan.Parallel must not be negative (got -1)"},
		{Plan{Limit: -1}, "Plan.Limit must not be negative (got -1ns)"},
		{Plan{}, ""},
	} {
		p := test.plan
		err := p.setDefaults()
		if test.want != "" {
			if err == nil || !strings.HasSuffix(err.Error(), test.want) {
				t.Errorf("%+v: error %v, want %s", test.plan, err, test.want)
			}
			continue
		}
		if err != nil || p.Kinds != single|Twice || p.MaxRuns != 2000 || p.Limit != 1000*time.Hour || p.Seed == 0 {
			t.Errorf("%+v: %+v, error %v", test.plan, p, err)
		}
	}
	p := Plan{Kinds: Twice}
	if err := p.setDefaults(); err != nil || p.Kinds != single|Twice {
		t.Errorf("%+v, error %v", p, err)
	}
}

func TestElementOf_Patterns(t *testing.T) {
	for _, test := range []struct {
		pattern string
		n       int
		want    string
	}{
		{"TestX", 1, ""},
		{"TestX/crash", 1, "crash"},
		{"^TestX$/^a$/^crash_1$", 2, "^crash_1$"},
		{"Test[/]X/(a/b)/crash", 2, "crash"},
		{`Test\/X/crash`, 1, "crash"},
		{"TestX/", 1, ""},
		{"TestX/(", 1, ""},
		{"TestX/a|TestY/b", 1, ""},
		{"(TestX|TestY)/b", 1, "b"},
	} {
		got := ""
		if re := elementOf(test.pattern, test.n); re != nil {
			got = re.String()
		}
		if got != test.want {
			t.Errorf("element %d of %s: %q, want %q", test.n, test.pattern, got, test.want)
		}
	}
}

func TestShares_Divide(t *testing.T) {
	for _, test := range []struct {
		n     int
		wants []int
		got   []int
	}{
		{10, []int{2, 3}, []int{2, 3}},
		{10, []int{2, 100, 100}, []int{2, 4, 4}},
		{7, []int{100, 100}, []int{4, 3}},
		{2, []int{5, 5, 5}, []int{1, 1, 0}},
		{5, []int{0, 9}, []int{0, 5}},
	} {
		if got := shares(test.n, test.wants...); !slices.Equal(got, test.got) {
			t.Errorf("shares(%d, %d) = %d, want %d", test.n, test.wants, got, test.got)
		}
	}
}

func TestTails_OfUnsavedDetails(t *testing.T) {
	for unsaved, want := range map[int][]int{
		0: {0}, 1: {0, 1}, 3: {0, 1, 2, 3}, 9: {0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
		20: {0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 20},
	} {
		if got := tails(unsaved); !slices.Equal(got, want) {
			t.Errorf("tails(%d) = %d, want %d", unsaved, got, want)
		}
	}
}

func TestShow_Details(t *testing.T) {
	for details, want := range map[string]string{
		"":                                "nothing",
		"\x011":                           "1",
		"\x011\x03\"a\"":                  `1, "a"`,
		"\x02\xff\xfe":                    `"\xff\xfe"`,
		"\x05a":                           `"\x05a"`,
		"\x64" + strings.Repeat("ab", 50): strings.Repeat("ab", 10) + "..." + strings.Repeat("ab", 20),
	} {
		var d []byte
		if details != "" {
			d = []byte(details)
		}
		if got := show(d); got != want {
			t.Errorf("show(%q) = %s, want %s", details, got, want)
		}
	}
}

// Given a usage that is useless, or one that is not in one respect, when it is judged, then
// the reason is returned only in the first case.
func TestUsage_Useless(t *testing.T) {
	beat := func(details string) *step {
		return &step{call: call{kind: "Heartbeat", details: true}, details: []byte(details)}
	}
	steps := []*step{beat("a"), beat("b"), {call: call{kind: "return"}}}
	never := usage{resumed: 2, from: map[string]bool{"a": true, "b": true}, after: map[int]bool{1: true, 2: true}}
	for _, test := range []struct {
		name   string
		change func(u *usage)
		steps  []*step // if nil, the steps above
		want   string  // part of the reason; if "", none
	}{
		{name: "never read", want: "never reads its details"},
		{name: "zero values", change: func(u *usage) { u.read = true }, want: "only zero values"},
		{name: "ignored", change: func(u *usage) { u.read, u.told = true, true }, want: "starts from the beginning"},
		{name: "one value", change: func(u *usage) {
			u.read, u.told, u.from = true, true, map[string]bool{"b": true}
		}},
		{name: "a difference", change: func(u *usage) { u.differs = true }},
		{name: "after one heartbeat only", change: func(u *usage) { delete(u.after, 1) }},
		{name: "not from the last details", change: func(u *usage) { delete(u.from, "b") }},
		{name: "one heartbeat with details", steps: []*step{beat("b"), {call: call{kind: "Heartbeat"}}}},
		{name: "one of two was refused", steps: []*step{
			{call: call{kind: "Heartbeat", details: true}, err: errors.New("too large"), details: []byte("a")}, beat("b"),
		}},
	} {
		u := never
		u.from, u.after = maps.Clone(never.from), maps.Clone(never.after)
		if test.change != nil {
			test.change(&u)
		}
		if test.steps == nil {
			test.steps = steps
		}
		if got := u.useless(test.steps); !strings.Contains(got, test.want) || got != "" && test.want == "" {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// Given attempts that were cut off or that differed, when they are added to the usages, then
// they do not count as resumed.
func TestUsages_Learn(t *testing.T) {
	dry := newWorld(&Plan{}, nil, nil)
	dry.sight("a")
	w := newWorld(&Plan{}, &run{}, dry)
	w.sight("a").resumptions = []*resumption{
		{details: []byte("cut off"), after: 1, read: true},
		{details: []byte("told, and cut off"), after: 1, told: true},
		{details: []byte("the same"), after: 2, returned: true},
	}
	w.sight("b").resumptions = []*resumption{
		{details: []byte("something else"), returned: true, differs: true},
		{details: []byte("something else, and cut off"), differs: true},
	}
	got := usages{}
	got.learn(w)
	want := usages{
		"a": {read: true, told: true, resumed: 1, from: map[string]bool{"the same": true}, after: map[int]bool{2: true}},
		"b": {differs: true, from: map[string]bool{}, after: map[int]bool{}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %+v, want %+v %+v", got["a"], got["b"], want["a"], want["b"])
	}
}

// Given several attempts of the dry run that resume from nothing, then the last one counts.
func TestDetails_FirstAttemptFails(t *testing.T) {
	var p Plan
	if err := p.setDefaults(); err != nil {
		t.Fatal(err)
	}
	dry := newWorld(&p, nil, nil)
	dry.bubble(t, func(t *testing.T, w *World) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, activity.Options{ID: "job"}, func(ctx activity.Context) error {
				switch ctx.Info().Attempt {
				case 1:
					return errors.New("once more")
				case 2:
					return errors.Join(ctx.Heartbeat(1), errors.New("and once more"))
				}
				return ctx.Sleep(time.Second)
			})
		})
		if err != nil {
			t.Error(err)
		}
	})
	var got []string
	for _, s := range dry.seen["job"].fromNothing[0] {
		got = append(got, s.String())
	}
	if want := []string{"Heartbeat(1)", "return and once more"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Given a run with two interruptions of which the second did not happen, then the pair was not tried.
func TestChoice_PairThatDidNotHappen(t *testing.T) {
	var p Plan
	if err := p.setDefaults(); err != nil {
		t.Fatal(err)
	}
	dry := newWorld(&p, nil, nil)
	c := newChoice(&p, dry, nil)
	first, second := &interruption{kind: Crash, site: 1}, &interruption{kind: Crash, site: 2, nth: 1}
	possible(c.pairs, [2]way{first.way(), second.way()})
	for done := 1; done <= 2; done++ {
		w := newWorld(&p, &run{interruptions: []*interruption{first, second}}, dry)
		w.done = done
		c.learn(w)
		if _, _, _, pairs, of := c.covered(); pairs != done-1 || of != 1 {
			t.Errorf("after %d interruptions, %d of %d pairs were tried", done, pairs, of)
		}
	}
}

// Given IDs that end like the numbers in a run's name, then each name selects the run that has it.
func TestChoice_NamesLikeNumbers(t *testing.T) {
	p := Plan{PowerLoss: true}
	if err := p.setDefaults(); err != nil {
		t.Fatal(err)
	}
	dry := newWorld(&p, nil, nil)
	for _, id := range []string{"a", "x_lost_1", "x_until_place_2", "x_state_1", "x_then_crash_at_place_3"} {
		dry.places = append(dry.places, placed{place: place{id: id, what: "after sleep", n: 1}, canStall: true, canFault: true, unsaved: 3, unsynced: 3})
	}
	choice := func(name string) *choice {
		if name == "" {
			return newChoice(&p, dry, nil)
		}
		return newChoice(&p, dry, regexp.MustCompile("^"+regexp.QuoteMeta(name)+"$"))
	}
	all := choice("")
	for _, firsts := range all.firsts {
		for _, in := range firsts {
			in := *in
			for _, second := range []*interruption{nil, {kind: Crash, nth: 2, lost: 1}, {kind: powerLoss, nth: 2, state: 4}, {kind: Stall, nth: 2}} {
				r := all.run(&in)
				if second != nil {
					r = all.run(&in, second)
				}
				got := choice(r.name).named()
				if len(got) != 1 || got[0].name != r.name {
					t.Errorf("%s selects %d runs", r.name, len(got))
				}
			}
		}
	}
}
