package ontemporal

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/seed-9da638b0/activity"
	"go.temporal.io/api/serviceerror"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Given an answer that is a bare gRPC status, such as that of an expired token, then the details are
// sent again, and the function does not hear of it.
func TestHeartbeat_StatusIsAnOutage(t *testing.T) {
	for _, code := range []codes.Code{codes.Unauthenticated, codes.OutOfRange} {
		synctest.Test(t, func(t *testing.T) {
			a := newTestAttempt(t, 10*time.Second)
			a.throttle = time.Second
			checkErr(t, a.Heartbeat(1))
			time.Sleep(2 * time.Second)
			a.answers(func() error { return status.Error(code, "token expired") }) // as the SDK's client returns it
			if err := a.Heartbeat(2); err != nil {
				t.Errorf("%s: Heartbeat returned %v; NonRetryable: %t", code, err, saysNonRetryable(err))
			}
			a.answers(nil)
			time.Sleep(time.Second)
			synctest.Wait()
			if last := a.last(); last != "2" {
				t.Errorf("%s: the server has %s, want 2", code, last)
			}
		})
	}
}

// Given a data converter that fails for details that the server has already, then the function does
// not hear of it.
func TestHeartbeat_ConverterAwayIsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		checkErr(t, a.Heartbeat(1))
		a.answers(func() error { return errors.New("codec server: connection refused") })
		time.Sleep(5*time.Second + 1) // one heartbeat of the worker's own
		a.answers(nil)
		time.Sleep(2 * time.Second)
		if err := a.Heartbeat(); err != nil {
			t.Errorf("Heartbeat returned %v; NonRetryable: %t; the server has %s", err, saysNonRetryable(err), a.last())
		}
	})
}

// Given details that were refused when they were sent, then the next heartbeat of the function says
// so, and not one of a library.
func TestHeartbeat_RefusalReachesTheFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.throttle = time.Second
		checkErr(t, a.Heartbeat(1))
		a.refuses("2")
		checkErr(t, a.Heartbeat(2))                   // held back
		time.Sleep(2 * time.Second)                   // sent, and refused
		(&recorder{t: &a.attempt}).RecordHeartbeat(a) // a library's
		if err := a.Heartbeat(); err == nil {
			t.Errorf("the function never learns that details 2 were dropped; the server has %s", a.last())
		}
	})
}

// Given many goroutines that wait in Guard for the first answer, then they share one heartbeat.
func TestGuard_OneHeartbeatForAll(t *testing.T) {
	a := newTestAttempt(t, time.Minute) // no bubble, where a goroutine that waits for a Mutex stops the time
	a.answers(func() error { time.Sleep(50 * time.Millisecond); return nil })
	begun := time.Now()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { checkErr(t, a.Guard(func() error { return nil })) })
	}
	wg.Wait()
	if n, d := len(a.got()), time.Since(begun); n > 1 {
		t.Errorf("20 goroutines in Guard: %d heartbeats, and the last one began after %s", n, d)
	}
}

// Given an attempt that has ended, then Guard refuses at once.
func TestGuard_EndedAttemptSendsNothing(t *testing.T) {
	for name, end := range map[string]func(a *testAttempt){
		"fenced by the next attempt": func(a *testAttempt) { a.mu.Lock(); a.fenceLocked(errOver); a.mu.Unlock() },
		"worker has stopped":         func(a *testAttempt) { a.mu.Lock(); a.cancel(errStops); a.silent = true; a.mu.Unlock() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newTestAttempt(t, 10*time.Second)
				a.answers(func() error { time.Sleep(5 * time.Second); return context.DeadlineExceeded })
				end(a)
				begun := time.Now()
				err := a.Guard(func() error { t.Error("it began"); return nil })
				if n, d := len(a.got()), time.Since(begun); n > 0 || d > 0 {
					t.Errorf("%s: Guard sent %d heartbeats, and returned %v only after %s", name, n, err, d)
				}
			})
		})
	}
}

// Given a heartbeat whose answer was lost, when the function records the details before it again and
// fails, then they are sent.
func TestFlush_AfterLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.throttle = time.Second
		checkErr(t, a.Heartbeat("idle"))
		time.Sleep(2 * time.Second)
		a.answers(func() error { return errAway }) // the server gets it, the answer is lost
		checkErr(t, a.Heartbeat("busy"))
		a.answers(nil)
		checkErr(t, a.Heartbeat("idle")) // recorded; waits for retryAt
		_, _ = a.settle(errors.New("boom"))
		a.flush() // as report does
		if last := a.last(); last != `"idle"` {
			t.Errorf("the next attempt resumes from %s, recorded last was \"idle\"", last)
		}
	})
}

// Given details with the same bytes in another encoding, then they are others.
func TestFlush_AnotherEncoding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		(&recorder{t: &a.attempt}).RecordHeartbeat(a, []byte("1")) // binary/plain, sent at once
		checkErr(t, a.Heartbeat(1))                                // json/plain, held back
		_, _ = a.settle(errors.New("boom"))
		a.flush()
		if n := len(a.got()); n != 2 {
			t.Errorf("%d heartbeats: the server keeps binary/plain, and the next attempt cannot resume", n)
		}
	})
}

// Given details that the data converter refuses, then the report of a stall does not have them.
func TestStall_ReportLeavesOutRefusedDetails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		checkErr(t, a.Heartbeat(1))
		a.refuses("2")
		checkErr(t, a.Heartbeat(2)) // held back
		a.mu.Lock()
		a.fenceLocked(a.timeoutLocked(activity.TimeoutHeartbeat, a.info.HeartbeatTimeout))
		a.mu.Unlock()
		err, cause := a.settle(nil)
		_ = a.report(err, cause)
		if a.newestDetails() != "1" {
			t.Errorf("the report carries %s, which the converter refuses: the SDK panics when it encodes it", a.newestDetails())
		}
	})
}

func (a *testAttempt) newestDetails() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return string(a.latest[0].Payload().Data)
}

// Rule 19. Given a worker that stops while Guard waits for the first answer, then Guard returns
// ErrShutdown.
func TestGuard_WaitIsASafePoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, time.Hour)
		stop := make(chan struct{})
		a.stopping = stop
		a.answers(func() error { return errAway })
		time.AfterFunc(time.Minute, func() { close(stop) })
		begun := time.Now()
		err := activity.Guard(&a.attempt, func() error { return nil })
		if d := time.Since(begun); err != activity.ErrShutdown || d != time.Minute {
			t.Errorf("the worker stops after 1m; Guard returned after %s: %v", d, err)
		}
	})
}

// Rule 19. Given a worker that stops while Guard waits for an answer that then comes, then the
// function given to Guard does not begin.
func TestGuard_DoesNotBeginAfterStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, time.Hour)
		stop := make(chan struct{})
		a.stopping = stop
		begun := time.Now()
		a.answers(func() error {
			if time.Since(begun) < 2*time.Minute {
				return errAway
			}
			return nil
		})
		time.AfterFunc(time.Minute, func() { close(stop) })
		err := activity.Guard(&a.attempt, func() error {
			t.Errorf("f began %s after the start, 1m after the worker's stop", time.Since(begun))
			return nil
		})
		if err != activity.ErrShutdown {
			t.Errorf("got %v", err)
		}
	})
}

// Given a derived context that ends while Guard waits for the first answer, then the function given to
// Guard does not begin.
func TestGuard_DerivedContextEndsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Minute)
		begun := time.Now()
		a.answers(func() error {
			if time.Since(begun) < 5*time.Minute {
				return errAway
			}
			return nil
		})
		std, cancel := context.WithTimeout(&a.attempt, time.Minute)
		defer cancel()
		ctx, _ := activity.FromContext(std)
		err := activity.Guard(ctx, func() error { t.Errorf("f began %s after ctx had ended", time.Since(begun)-time.Minute); return nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v after %s", err, time.Since(begun))
		}
	})
}

// Rule 27. Given a paused or reset function inside Guard after CancelGrace, then heartbeats are sent
// until Guard returns.
func TestGuard_HeartbeatsAfterCancelGrace(t *testing.T) {
	for _, answer := range []error{sdkactivity.ErrActivityReset, sdkactivity.ErrActivityPaused} {
		t.Run(answer.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newTestAttempt(t, 10*time.Second)
				a.grace = 10 * time.Second
				checkErr(t, a.Heartbeat(1))
				a.answers(func() error { return answer })
				checkErr(t, a.Guard(func() error { time.Sleep(5 * time.Minute); return nil }))
				if n := len(a.got()); n < 50 {
					t.Errorf("after %v, %d heartbeats in 5 min inside Guard, so the server times it out and starts another", answer, n)
				}
			})
		})
	}
}

// Given a tiny throttle interval, then failed heartbeats are not repeated in a hot loop.
func TestHeartbeat_TinyThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.mu.Lock()
		a.heartbeats = newHeartbeats(time.Now(), 10*time.Second, time.Microsecond)
		a.mu.Unlock()
		checkErr(t, a.Heartbeat(1))
		a.answers(func() error { return errors.New("no such key") })
		checkErrAny(a.Heartbeat(2))
		time.Sleep(time.Millisecond)
		if n := len(a.got()); n > 10 {
			t.Errorf("%d heartbeats (and as many warnings) in a millisecond", n)
		}
	})
}
func checkErrAny(error) {}

// Given details that were refused, then the attempt has made no progress.
func TestHeartbeat_RefusedIsNoProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.refuses("2")
		_ = a.Heartbeat(2)
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.progressed {
			t.Error("details that were dropped count as progress, so each stall is retried at once, without backoff")
		}
	})
}

// Given a stall inside Guard, when the server says that the attempt is over, then no more heartbeats
// are sent.
func TestGuard_NotFoundEndsHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		checkErr(t, a.Heartbeat(1))
		after := 0
		_ = a.Guard(func() error {
			time.Sleep(20 * time.Second) // a stall
			a.answers(func() error { after++; return serviceerror.NewNotFound("task") })
			time.Sleep(5 * time.Minute)
			return nil
		})
		if after > 1 {
			t.Errorf("%d heartbeats after the server had said that the attempt is over", after)
		}
	})
}

// Given a network that drops packets, so that calls end with their timeouts, then the attempt survives
// what the package documentation promises.
func TestLease_SurvivesDroppedPackets(t *testing.T) {
	for _, timeout := range []time.Duration{2 * time.Second, 10 * time.Second, 20 * time.Second, 2 * time.Minute} {
		t.Run(timeout.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newTestAttempt(t, timeout)
				checkErr(t, a.Heartbeat(1))
				a.neverStalls()
				from := time.Now().Add(a.pulse - time.Millisecond) // just before the next heartbeat
				to := from.Add(timeout - a.pulse - a.timeout() - time.Millisecond)
				a.answers(func() error {
					if now := time.Now(); !now.Before(from) && now.Before(to) { // packets are dropped: the call ends with its timeout
						time.Sleep(a.timeout())
						return context.DeadlineExceeded
					}
					return nil
				})
				time.Sleep(time.Until(to) + timeout)
				synctest.Wait()
				if a.Err() != nil {
					t.Errorf("timeout %s, interval %s: an outage of %s ended the attempt: %v", timeout, a.pulse, to.Sub(from), context.Cause(a))
				}
			})
		})
	}
}

// Given details that are refused, then those recorded before them are sent, even if the server did not
// have them yet.
func TestHeartbeat_RefusalKeepsThePrevious(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		checkErr(t, a.Heartbeat(1))
		a.refuses("3")
		checkErr(t, a.Heartbeat(2)) // accepted, and held back
		checkErr(t, a.Heartbeat(3)) // held back, and then refused
		time.Sleep(7 * time.Second)
		if last := a.last(); last != "2" {
			t.Errorf("the details before the refused ones are 2; the server has %s (%v)", last, a.Heartbeat())
		}
	})
}

type panicking struct{ slog.Handler }

func (panicking) Enabled(context.Context, slog.Level) bool { return true }
func (panicking) Handle(context.Context, slog.Record) error {
	panic("Log in goroutine after Test has completed")
}

// Given a logger that panics, then no lock is left in disorder, which would end the process.
func TestGuard_LoggerPanics(t *testing.T) {
	a := newTestAttempt(t, 10*time.Second)
	a.logger = slog.New(panicking{slog.DiscardHandler})
	a.answers(func() error { return errAway })
	defer func() { t.Log("recovered:", recover()) }()
	_ = a.Guard(func() error { return nil })
}

type nosy struct{ a *testAttempt }

func (e nosy) Error() string { e.a.Logger(); _ = e.a.Sleep(0); return "no such key" } // for instance to add what the attempt knows

// Given a data converter whose error calls the attempt, then nothing hangs.
func TestHeartbeat_NoUserCodeUnderLock(t *testing.T) {
	a := newTestAttempt(t, 10*time.Second)
	a.answers(func() error { return nosy{a} })
	done := make(chan struct{})
	go func() { _ = a.Heartbeat(1); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Fatal("deadlock: the error's Error is called under attempt.mu")
	}
}

// Given an answer that comes at the end of the lease, before the timer fires, then it renews nothing.
func TestLease_LateAnswerOfPausedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.neverStalls()
		a.mu.Lock()
		a.timer.Stop() // the process is paused: its timers are late
		a.mu.Unlock()
		a.answers(func() error { time.Sleep(10 * time.Second); return nil })
		a.send()
		checkCause(t, &a.attempt, context.Cause(a), errOver)
	})
}

// Given an attempt whose end cannot be reported, then only its last details are sent.
func TestHeartbeat_SilentAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.mu.Lock()
		a.cancel(errStops)
		a.silent = true
		a.mu.Unlock()
		checkCause(t, &a.attempt, a.Heartbeat(1), errStops)
		time.Sleep(9 * time.Second)
		if n := len(a.got()); n > 0 {
			t.Errorf("%d heartbeats", n)
		}
		a.flush()
		if n := len(a.got()); n != 1 {
			t.Errorf("the details are not flushed")
		}
	})
}

// Given a machine that was suspended, when only its wall clock has gone on, then the lease has ended.
func TestLease_SuspendedMachine(t *testing.T) {
	a := newTestAttempt(t, 10*time.Second)
	later := time.Now().Add(11 * time.Second)
	type instant struct {
		wall uint64
		mono int64
		loc  unsafe.Pointer
	}
	(*instant)(unsafe.Pointer(&later)).mono -= int64(11 * time.Second) // only the wall clock has gone on
	if time.Until(later) > time.Second {
		t.Fatal("time.Time has another layout")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.lostLocked(later) {
		t.Error("the lease outlives a suspension")
	}
}

// Given details that are refused while newer ones are recorded, then these stay.
func TestHeartbeat_RefusalKeepsNewerDetails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		checkErr(t, a.Heartbeat(1))
		a.answers(func() error {
			if a.last() == "2" {
				time.Sleep(time.Second)
				return errConverter
			}
			return nil
		})
		checkErr(t, a.Heartbeat(2)) // held back, and sent after 5 s
		time.Sleep(5*time.Second + 500*time.Millisecond)
		checkErr(t, a.Heartbeat(3)) // while 2 is in flight
		time.Sleep(6 * time.Second)
		if last := a.last(); last != "3" {
			t.Errorf("the server has %s", last)
		}
	})
}

// Given a heartbeat that was due when the attempt was settled, then it is not sent.
func TestHeartbeat_SettledSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.mu.Lock()
		a.claimLocked(time.Now()) // tick has claimed it, and has not come to send
		a.mu.Unlock()
		_, _ = a.settle(nil)
		a.send()
		if n := len(a.got()); n > 0 {
			t.Errorf("%d heartbeats of a settled attempt", n)
		}
	})
}

// Given details that the server has, then they are not sent again at the end.
func TestFlush_OnlyWhatTheServerLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		checkErr(t, a.Heartbeat(1))
		_, _ = a.settle(errConverter)
		a.flush()
		if n := len(a.got()); n != 1 {
			t.Errorf("%d heartbeats", n)
		}
	})
}

// Given an outage, then a heartbeat of the function does not wait for the server.
func TestHeartbeat_DoesNotWaitInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.throttle = 100 * time.Millisecond
		a.answers(func() error { time.Sleep(time.Second); return errAway })
		checkErr(t, a.Heartbeat(1))
		// retryAt is 25 ms later; the throttle has passed long ago.
		begun := time.Now()
		checkErr(t, a.Heartbeat(2))
		if d := time.Since(begun); d > 0 {
			t.Errorf("it waited for %s", d)
		}
	})
}

// Given a heartbeat that has failed, then Guard waits for the next one, and sends none beside it.
func TestGuard_WaitsForTheRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, time.Minute)
		a.answers(func() error { return errAway })
		checkErr(t, a.Heartbeat(1))
		a.answers(nil)
		begun := time.Now()
		checkErr(t, a.Guard(func() error { return nil }))
		if d := time.Since(begun); d != time.Second || len(a.got()) != 2 {
			t.Errorf("after %s, %d heartbeats", d, len(a.got()))
		}
	})
}

// Given a heartbeat that fails during a stall inside Guard, then it is sent again like any other.
func TestGuard_RetriesDuringStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		checkErr(t, a.Heartbeat(1))
		_ = a.Guard(func() error {
			time.Sleep(12 * time.Second) // a stall after 10 s
			n := len(a.got())
			a.answers(func() error { return errAway })
			time.Sleep(5 * time.Second) // heartbeats at 15 s, 16 s, and 17 s
			if n = len(a.got()) - n; n < 2 {
				t.Errorf("%d heartbeats", n)
			}
			time.Sleep(20 * time.Second) // past the end of the lease, which must not fire the timer at once again (A23)
			return nil
		})
	})
}

// Given a heartbeat that hangs, then the lease still ends in time.
func TestLease_HasATimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.neverStalls()
		a.answers(func() error { time.Sleep(time.Hour); return nil }) // hangs in spite of its timeout
		time.Sleep(5 * time.Second)
		synctest.Wait()
		a.mu.Lock()
		a.leaseEnd = time.Now().Add(3 * time.Second)
		a.armLocked(time.Now())
		a.mu.Unlock()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		checkCause(t, &a.attempt, context.Cause(a), errOver)
		time.Sleep(2 * time.Hour) // until the call has returned
	})
}

// Given no heartbeat timeout, then CancelGrace still ends in time.
func TestCancel_GraceWithoutHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 0)
		a.grace = time.Minute
		a.answers(func() error { return temporal.NewCanceledError() })
		checkCause(t, &a.attempt, a.Heartbeat(), errCanceled)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !a.isOver() || !isLeft(&a.attempt) {
			t.Error("it is not left behind")
		}
	})
}

var errConverter = errors.New("no such key")

// Given several deadlines that are due after a pause of the process, then the earliest is the cause.
func TestDeadlines_FirstIsTheCause(t *testing.T) {
	for _, test := range []struct {
		beat, lease, deadline time.Duration
		want                  activity.TimeoutType // zero for the lease
	}{
		{11, 15, 100, activity.TimeoutHeartbeat},
		{15, 11, 100, 0},
		{11, 11, 100, 0},
		{50, 15, 8, activity.TimeoutStartToClose},
		{50, 8, 15, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := newTestAttempt(t, 10*time.Second)
			now := time.Now()
			a.mu.Lock()
			defer a.mu.Unlock()
			a.beatBy, a.leaseEnd = now.Add(test.beat*time.Second), now.Add(test.lease*time.Second)
			a.info.Deadline = now.Add(test.deadline * time.Second)
			a.checkLocked(now.Add(200 * time.Second))
			var e *activity.TimeoutError
			if errors.As(context.Cause(a), &e); test.want == 0 && !errors.Is(context.Cause(a), errOver) || test.want != 0 && (e == nil || e.Type != test.want) {
				t.Errorf("%+v: %v", test, context.Cause(a))
			}
		})
	}
}

// Given an SDK's context that the program itself has ended, then no heartbeat is sent.
func TestHeartbeat_SilentAfterForeignEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.endSDK(errors.New("the program ends"))
		a.sdkEnded()
		time.Sleep(9 * time.Second)
		if n := len(a.got()); n > 0 {
			t.Errorf("%d heartbeats", n)
		}
	})
}

// Given a cancellation that ends the SDK's context, then the function has CancelGrace.
func TestCancel_GraceAfterSDKEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 0)
		a.grace = time.Minute
		a.endSDK(temporal.NewCanceledError())
		a.sdkEnded()
		time.Sleep(time.Minute)
		synctest.Wait()
		if !a.isOver() {
			t.Error("it is not left behind")
		}
	})
}

// Rule 7. Given a function that returns at a deadline before the timer fires, then it has timed out.
func TestTimeout_ReturnAtDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.timer.Stop()
		time.Sleep(10 * time.Second)
		if err, cause := a.settle(nil); err == nil || cause == nil {
			t.Errorf("it has completed: %v, %v", err, cause)
		}
	})
}

// Given a worker that stops while an attempt waits for an earlier one inside Guard, then the attempt
// ends.
func TestWorkerStop_WhileBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 0)
		stop := make(chan struct{})
		a.stopping = stop
		a.place.guard(1)
		time.AfterFunc(time.Minute, func() { close(stop) })
		time.AfterFunc(time.Hour, func() { a.cancel(errOver) })
		begun := time.Now()
		if err := a.admit(); err != activity.ErrShutdown || time.Since(begun) != time.Minute {
			t.Errorf("got %v after %s", err, time.Since(begun))
		}
	})
}

// Given an attempt whose lease has ended, then it reports and sends nothing, because another may run.
func TestLease_FencedAttemptReportsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.answers(func() error { return errAway })
		checkErr(t, a.Heartbeat(1))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		n := len(a.got())
		if err := a.report(a.settle(errConverter)); err != sdkactivity.ErrResultPending || len(a.got()) != n {
			t.Errorf("it reports %v, after %d heartbeats", err, len(a.got())-n)
		}
	})
}

// Given an activity that was reset, then the next attempt starts at once, whatever the error says.
func TestReset_IsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.answers(func() error { return sdkactivity.ErrActivityReset })
		_ = a.Heartbeat(1)
		var app *temporal.ApplicationError
		if err := a.report(a.settle(activity.NonRetryable(errConverter))); !errors.As(err, &app) || app.NonRetryable() || app.NextRetryDelay() != atOnce {
			t.Errorf("it reports %v", err)
		}
	})
}

// Rule 7. Given a Sleep that ends with the lease, then the end of the lease comes first.
func TestSleep_UntilEndOfLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 10*time.Second)
		a.timer.Stop()
		if err := a.Sleep(10 * time.Second); !errors.Is(err, errOver) {
			t.Errorf("got %v", err)
		}
	})
}

// Given a worker that stops, then details that cannot be encoded are still an error, and a context
// that outlives the attempt sleeps on.
func TestWorkerStop_DetailsAreStillJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAttempt(t, 0)
		stop := make(chan struct{})
		close(stop)
		a.stopping = stop
		begun := time.Now()
		if err := a.SleepContext(context.WithoutCancel(&a.attempt), time.Minute); err != nil || time.Since(begun) != time.Minute {
			t.Errorf("Sleep returned %v after %s", err, time.Since(begun))
		}
		if err := a.Heartbeat(make(chan int)); !saysNonRetryable(err) {
			t.Errorf("Heartbeat returned %v", err)
		}
	})
}
