//go:build linux || darwin

package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// stopTimeout is the heartbeat timeout of the activities. Their process is stopped for twice
// as long.
const stopTimeout = 300 * time.Millisecond

func init() {
	children["healthy"] = func(path string) error {
		s, err := boltstore.Open(path, nil)
		if err != nil {
			return err
		}
		hang, hung := make(chan struct{}), make(chan error, 10)
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it
			close(hang)
		}()

		rt := activity.New(activity.Config{Store: s, SaveInterval: 2 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
		beating := make(chan struct{}, 10)
		start := func(id string, sync bool, pause func(activity.Context) error) error {
			opts := activity.Options{ID: id, HeartbeatTimeout: stopTimeout, SyncHeartbeats: sync}
			_, err := activity.Start(context.Background(), rt, opts, func(ctx activity.Context, _ any) (any, error) {
				return nil, beat(ctx, pause, beating)
			}, nil)
			return err
		}
		sleep := func(ctx activity.Context) error { return ctx.Sleep(5 * time.Millisecond) }
		err = errors.Join(
			start("sleeps", false, sleep),
			start("waits for the Store", true, sleep),
			start("sleeps without the runtime", false, func(activity.Context) error {
				time.Sleep(time.Millisecond)
				return nil
			}),
			start("is on the CPU", false, func(activity.Context) error { // its heartbeat comes before the timer
				runtime.Gosched()
				return nil
			}),
			start("hangs", false, func(ctx activity.Context) error {
				select {
				case <-hang:
					<-ctx.Done()
					hung <- context.Cause(ctx)
					return errors.New("hung")
				default:
					return sleep(ctx)
				}
			}),
		)
		if err != nil {
			return err
		}
		for range 5 {
			<-beating
		}
		tell(event{What: "beating"})
		var timeout *activity.TimeoutError
		if err := <-hung; !errors.As(err, &timeout) || timeout.Type != activity.TimeoutHeartbeat {
			return fmt.Errorf("the activity that hangs ended with: %w", err)
		}
		timeouts := rt.Stats().Timeouts
		if err := errors.Join(rt.Shutdown(context.Background()), s.Close()); err != nil {
			return err
		}
		tell(event{What: "timeouts", N: int(timeouts)})
		return nil
	}
}

// beat sends heartbeats forever. It reports a timeout and the time since the last heartbeat.
func beat(ctx activity.Context, pause func(activity.Context) error, beating chan<- struct{}) error {
	last := time.Now()
	for n := 1; ; n++ {
		now := time.Now()
		err := ctx.Heartbeat(n)
		if err == nil {
			if last = now; n == 2 {
				beating <- struct{}{}
			}
			err = pause(ctx)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			tell(event{What: "lost", ID: ctx.Info().ID, Gap: time.Since(last)})
		}
		if err != nil {
			return err
		}
	}
}

// Rule 11. Given activities with heartbeat timeouts, when their process is stopped and
// continued, then only the activity that hangs times out.
func TestRuntime_StoppedProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	for range 5 {
		if stopped(t) {
			return
		}
	}
	t.Skip("the machine is so busy that healthy activities stall")
}

// stopped makes one attempt. It returns false if a healthy activity stalled because of the
// machine.
func stopped(t *testing.T) bool {
	cmd := child(t, "healthy", newPath(t))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stop time.Duration
	stalls, timeouts := 0, 0
	status := live(t, cmd, func(e event) {
		switch e.What {
		case "beating":
			stop = stopProcess(t, cmd.Process.Pid, 2*stopTimeout)
			stdin.Close()
		case "lost":
			if tooEarly := e.Gap < stopTimeout; tooEarly || e.Gap >= stop && e.Gap < stop+stopTimeout/2 {
				t.Errorf("activity %q timed out %s after its last heartbeat; the process was stopped for %s", e.ID, e.Gap, stop)
			}
			stalls++
		case "timeouts":
			timeouts = e.N
		}
	})
	if status != 0 {
		t.Fatalf("the child ended with status %#x", status)
	}
	if stalls > 0 {
		return t.Failed()
	}
	if timeouts != 1 {
		t.Errorf("got %d timeouts, want only that of the activity that hangs", timeouts)
	}
	return true
}

// stopProcess stops a child for at least d, and returns a lower bound of the time.
func stopProcess(t *testing.T, pid int, d time.Duration) time.Duration {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil); err != nil || status.Exited() || status.Signaled() {
		t.Fatalf("the child did not stop: status %#x, %v", status, err)
	}
	start := time.Now()
	time.Sleep(d)
	stop := time.Since(start)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	return stop
}
