package ontemporal

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	sdkactivity "go.temporal.io/sdk/activity"
)

func newPlacedAttempt(t *testing.T, key placeKey) *attempt {
	a := newTestAttempt(t, 0)
	a.place = enter(key, &a.attempt)
	return &a.attempt
}

func isLeft(t *attempt) bool {
	select {
	case <-t.left:
		return true
	default:
		return false
	}
}

// Rule 27. Given an attempt inside Guard, when the next one enters, then the first is over, and
// the next is blocked until Guard has returned.
func TestPlace_GuardBlocksNextAttempt(t *testing.T) {
	key := placeKey{id: t.Name()}
	old := newPlacedAttempt(t, key)
	if changed, why := old.place.blocked(); changed != nil {
		t.Fatalf("the first is blocked by %s", why)
	}
	var next *attempt
	err := old.Guard(func() error {
		return old.Guard(func() error {
			next = newPlacedAttempt(t, key)
			if !errors.Is(context.Cause(old), errOver) || isLeft(old) {
				t.Error("the earlier attempt continues, or was left behind inside Guard")
			}
			changed, why := next.place.blocked()
			if changed == nil || !strings.Contains(why, "still inside Guard") {
				t.Errorf("the next is not blocked: %s", why)
			}
			return nil
		})
	})
	if err != nil || !isLeft(old) {
		t.Errorf("got %v, left %v", err, isLeft(old))
	}
	if changed, why := next.place.blocked(); changed != nil {
		t.Errorf("the next is blocked by %s", why)
	}
	if err := old.Guard(func() error { panic("called") }); !errors.Is(err, errOver) {
		t.Errorf("got %v", err)
	}
	func() {
		defer func() { recover() }()
		next.Guard(func() error { panic("in Guard") })
	}()
	if changed, why := next.place.blocked(); changed != nil || next.guards != 0 {
		t.Errorf("after a panic the next is blocked by %s", why)
	}
	old.place.leave()
	next.place.leave()
	if n := len(places.byKey); n != 0 {
		t.Errorf("%d places are left", n)
	}
}

// Rule 9. Given 13 functions of earlier attempts, when they return one by one, then an attempt
// is blocked until 10 are left, and is woken each time.
func TestPlace_FunctionsBlockNextAttempt(t *testing.T) {
	key := placeKey{id: t.Name()}
	for range maxLeft {
		newPlacedAttempt(t, key)
	}
	for range 3 {
		newPlacedAttempt(t, key)
	}
	last := newPlacedAttempt(t, key)
	for n := 13; n > maxLeft; n-- {
		changed, why := last.place.blocked()
		if changed == nil || !strings.HasPrefix(why, map[int]string{13: "13", 12: "12", 11: "11"}[n]) {
			t.Fatalf("beside %d functions it is not blocked: %s", n, why)
		}
		last.place.leave()
		<-changed
	}
	if changed, why := last.place.blocked(); changed != nil {
		t.Errorf("beside %d functions it is blocked: %s", maxLeft, why)
	}
	other := newPlacedAttempt(t, placeKey{id: "another"})
	if changed, why := other.place.blocked(); changed != nil {
		t.Errorf("another activity is blocked: %s", why)
	}
	other.place.leave()
	for range maxLeft + 1 {
		last.place.leave()
	}
	if n := len(places.byKey); n != 0 {
		t.Errorf("%d places are left", n)
	}
}

// Given two attempts of a run whose servers' clocks differ, then the one with the higher number is the
// later one. Of other runs, and after a reset, the times tell.
func TestPlace_LaterAttempt(t *testing.T) {
	at := func(run string, number int, second int64) *attempt {
		a := &attempt{sdkInfo: sdkactivity.Info{ActivityRunID: run}}
		a.info.Attempt, a.info.StartedAt = number, time.Unix(second, 0)
		return a
	}
	for _, test := range []struct {
		before, now *attempt
		want        bool // whether before is the later one
	}{
		{at("a", 1, 20), at("a", 2, 10), false},
		{at("a", 1, 10), at("a", 2, 20), false},
		{at("a", 2, 20), at("a", 1, 10), true},
		{at("a", 7, 10), at("a", 1, 20), false}, // a reset
		{at("a", 1, 20), at("b", 2, 10), true},
		{at("", 1, 20), at("", 2, 10), true}, // of a workflow
	} {
		if got := test.before.isAfter(test.now); got != test.want {
			t.Errorf("%s %d: %t", test.before.sdkInfo.ActivityRunID, test.before.info.Attempt, got)
		}
	}
}
