package ontemporal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/converter"
)

var errAway = serviceerror.NewUnavailable("away")

// lives reports whether the attempt continues, and checks that Guard agrees.
func (a *testAttempt) lives(t *testing.T) bool {
	t.Helper()
	synctest.Wait()
	began := false
	err := a.Guard(func() error { began = true; return nil })
	if began != (err == nil) || began != (a.Err() == nil) || err != nil && !errors.Is(err, errOver) || isLeft(&a.attempt) == began {
		t.Errorf("Guard began: %t, and returned %v; the Context: %v", began, err, context.Cause(a))
	}
	return began
}

// Rule 27. Given a server that answers no more, then the attempt is fenced, and Guard refuses, at the
// heartbeat timeout counted from when the last heartbeat that was answered was sent, and no earlier.
func TestLease_EndsAtHeartbeatTimeout(t *testing.T) {
	for _, beats := range []bool{false, true} { // whether the function sends heartbeats
		synctest.Test(t, func(t *testing.T) {
			a := newTestAttempt(t, 10*time.Second)
			if beats {
				go func() {
					for a.Heartbeat() == nil {
						time.Sleep(700 * time.Millisecond)
					}
				}()
			} else {
				a.neverStalls()
			}
			time.Sleep(30 * time.Second)
			synctest.Wait()
			a.answers(func() error { return errAway })
			a.mu.Lock()
			end := a.leaseEnd
			a.mu.Unlock()
			if left := time.Until(end); left > 10*time.Second || left < 5*time.Second {
				t.Errorf("the lease ends in %s", left)
			}
			time.Sleep(time.Until(end) - 1)
			if !a.lives(t) {
				t.Error("it is fenced too early")
			}
			time.Sleep(time.Nanosecond)
			if a.lives(t) {
				t.Error("it is not fenced")
			}
			checkCause(t, &a.attempt, a.Heartbeat(1), errOver)
			checkCause(t, &a.attempt, a.Sleep(time.Second), errOver)
			time.Sleep(time.Second) // until the function has returned
		})
	}
}

// Given answers that take 3 s, then the lease counts from when the heartbeat was sent. An answer that
// comes after the lease has ended renews nothing, and does not reach the function.
func TestLease_CountsFromSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.neverStalls()
		begun := time.Now()
		a.answers(func() error { time.Sleep(3 * time.Second); return nil })
		time.Sleep(8*time.Second + 1) // the first heartbeat was sent after 5 s
		synctest.Wait()
		a.mu.Lock()
		if d := a.leaseEnd.Sub(begun); d != 15*time.Second {
			t.Errorf("the lease ends after %s", d)
		}
		a.mu.Unlock()
		a.answers(func() error { time.Sleep(time.Minute); return nil }) // the next one is sent after 10 s
		time.Sleep(time.Until(begun.Add(15*time.Second - 1)))
		synctest.Wait()
		if a.Err() != nil {
			t.Error("it is fenced too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		checkCause(t, &a.attempt, context.Cause(a), errOver)
		time.Sleep(2 * time.Minute)
		checkCause(t, &a.attempt, a.Heartbeat(), errOver)
	})
}

// Given an outage that is shorter than the heartbeat timeout less the time between two heartbeats,
// then the attempt continues. Within a second of its end, the server has the newest details.
func TestLease_SurvivesOutages(t *testing.T) {
	for _, timeout := range []time.Duration{time.Second, 10 * time.Second, 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			a := newTestAttempt(t, timeout)
			n := 0
			work := func(d time.Duration) {
				for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(timeout / 100) {
					n++
					if err := a.Heartbeat(n); err != nil {
						t.Errorf("with %s: %v", timeout, err)
						return
					}
				}
			}
			for range 5 {
				a.answers(nil)
				work(timeout * 7 / 10)
				a.answers(func() error { return errAway })
				work(timeout - a.pulse)
				last := len(a.got())
				a.answers(nil)
				time.Sleep(min(time.Second, a.pulse/4))
				synctest.Wait()
				if got, want := len(a.got())-last, fmt.Sprint(n); got == 0 || a.last() != want {
					t.Errorf("with %s, the server got %d heartbeats and has %s, want %s", timeout, got, a.last(), want)
				}
			}
		})
	}
}

// Given an attempt that the server has not answered yet, then Guard waits for that, which is no stall.
// It is refused if no answer comes before the lease ends.
func TestLease_GuardWaitsForFirstAnswer(t *testing.T) {
	for _, away := range []time.Duration{0, 4 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			a := newTestAttempt(t, 10*time.Second)
			begun := time.Now()
			a.answers(func() error {
				if time.Since(begun) < away {
					return errAway
				}
				return nil
			})
			time.Sleep(time.Second)
			begins := time.Now()
			err := a.Guard(func() error { begins = time.Now(); return nil })
			switch d := begins.Sub(begun); {
			case away < time.Hour && (err != nil || d < away || d > max(away, time.Second)+time.Second):
				t.Errorf("away for %s: Guard began after %s, %v", away, d, err)
			case away == time.Hour && (!errors.Is(err, errOver) || time.Since(begun) != 10*time.Second):
				t.Errorf("Guard returned %v after %s", err, time.Since(begun))
			}
			if away < time.Hour {
				if time.Sleep(10*time.Second - 1); !a.lives(t) {
					t.Error("it has stalled")
				}
			}
		})
	}
}

// Given no heartbeat timeout, then there is no lease, and Guard does not wait for the server.
func TestLease_NoHeartbeatTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 0)
		a.answers(func() error { return errAway })
		checkErr(t, a.Heartbeat(1))
		time.Sleep(time.Hour)
		if !a.lives(t) {
			t.Error("it is fenced")
		}
	})
}

func checkErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// Given a stall inside Guard, then heartbeats are sent until Guard returns, so that the server starts
// no other attempt.
func TestGuard_HeartbeatsDuringStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		checkErr(t, a.Guard(func() error { time.Sleep(time.Minute); return nil }))
		if n := len(a.got()); n < 12 || !isStall(context.Cause(a)) || !isLeft(&a.attempt) {
			t.Errorf("%d heartbeats, %v", n, context.Cause(a))
		}
	})
}

// Given a function that sends heartbeats all the time, then the server gets one each half of the
// heartbeat timeout, and none while one is in flight. A function that is silent costs as many. The
// first is sent at once.
func TestHeartbeat_Traffic(t *testing.T) {
	for _, test := range []struct {
		timeout, throttle, every time.Duration
		want                     int // in a minute
	}{
		{10 * time.Second, 0, 10 * time.Millisecond, 12},
		{10 * time.Second, 0, 7 * time.Second, 12},
		{10 * time.Second, time.Second, 10 * time.Millisecond, 60},
		{10 * time.Second, time.Minute, 10 * time.Millisecond, 12},
		{time.Hour, 0, 10 * time.Millisecond, 6},
		{0, 0, 10 * time.Millisecond, 6},
		{0, time.Second, 10 * time.Millisecond, 60},
		{0, 0, time.Hour, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := newTestAttempt(t, test.timeout)
			a.heartbeats = newHeartbeats(time.Now(), test.timeout, test.throttle)
			busy := false
			a.answers(func() error {
				if busy {
					t.Error("two heartbeats at once")
				}
				busy = true
				time.Sleep(time.Millisecond)
				busy = false
				return nil
			})
			for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(test.every) {
				checkErr(t, a.Heartbeat(1))
			}
			if n := len(a.got()); n < test.want-1 || n > test.want+1 {
				t.Errorf("%+v: the server got %d heartbeats", test, n)
			}
		})
	}
}

// Given details of 100 KB and a heartbeat timeout of 10 s, then the server gets at most twice the bytes
// that the SDK would send, which holds heartbeats back for 8 s.
func TestHeartbeat_TrafficOfLargeDetails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		large := strings.Repeat("x", 100_000)
		for begun := time.Now(); time.Since(begun) < time.Hour; time.Sleep(2 * time.Second) {
			checkErr(t, a.Heartbeat(large))
		}
		bytes := 0
		for _, s := range a.got() {
			bytes += len(s)
		}
		if sdk := len(large) * 3600 / 8; bytes > 2*sdk {
			t.Errorf("%d bytes, and the SDK sends %d", bytes, sdk)
		}
	})
}

// Rule 3. Given details that the client's data converter refuses, then the heartbeat says so, the next
// one at the latest. The attempt continues, with the details before.
func TestHeartbeat_RefusedByConverter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.throttle = time.Second
		errNo := errors.New("no such key")
		a.answers(func() error {
			if last := a.last(); last == "2" || last == "3" {
				return errNo
			}
			return nil
		})
		check := func(n int, want error) {
			t.Helper()
			if err := a.Heartbeat(n); !errors.Is(err, want) || saysNonRetryable(err) != (want != nil) {
				t.Errorf("heartbeat %d: got %v, want %v", n, err, want)
			}
		}
		check(1, nil)
		time.Sleep(2 * time.Second)
		check(2, errNo) // sent at once
		time.Sleep(2 * time.Second)
		check(1, nil)
		check(3, nil) // kept for 1 s
		time.Sleep(2 * time.Second)
		check(4, errNo) // the error is that of 3
		time.Sleep(2 * time.Second)
		if last := a.last(); last != "4" || a.Err() != nil {
			t.Errorf("the server has %s, %v", last, context.Cause(a))
		}
	})
}

// enlarging is a data converter whose codec makes everything ten times as large.
type enlarging struct{ converter.DataConverter }

func (c enlarging) ToPayloads(values ...any) (*commonpb.Payloads, error) {
	p, err := c.DataConverter.ToPayloads(values...)
	large := &commonpb.Payloads{}
	for _, p := range p.GetPayloads() {
		large.Payloads = append(large.Payloads, &commonpb.Payload{Data: []byte(strings.Repeat(string(p.Data), 10))})
	}
	return large, err
}

// Rule 3. Given WorkerOptions.DataConverter, then details that are too large once they are encoded are
// rejected, from the function and from the SDK's RecordHeartbeat.
func TestHeartbeat_TooLargeForCodec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.worker.opts.DataConverter = enlarging{converter.GetDefaultDataConverter()}
		large := strings.Repeat("x", maxDetailsSize/10+1)
		checkErr(t, a.Heartbeat("kept"))
		if err := a.Heartbeat(large); !errors.Is(err, activity.ErrDetailsTooLarge) || !saysNonRetryable(err) {
			t.Errorf("got %v", err)
		}
		(&recorder{t: &a.attempt}).RecordHeartbeat(a, large)
		time.Sleep(9 * time.Second)
		if got := fmt.Sprint(a.got()); got != `["kept" "kept"]` || a.Err() != nil {
			t.Errorf("the server got %s, %v", got, context.Cause(a))
		}
		(&recorder{t: &a.attempt}).RecordHeartbeat(a, "new")
		time.Sleep(5 * time.Second)
		if got := a.last(); got != `"new"` {
			t.Errorf("recorded is %s", got)
		}
	})
}
