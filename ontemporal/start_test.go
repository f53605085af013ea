package ontemporal_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
)

// A slowServer takes a minute for a start, unless the start's context ends.
type slowServer struct{ *server }

func (s slowServer) ExecuteActivity(ctx context.Context, o client.StartActivityOptions, name any, args ...any) (client.ActivityHandle, error) {
	select {
	case <-time.After(time.Minute):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.server.ExecuteActivity(ctx, o, name, args...)
}

// Given a start that is in flight, when its context ends, then Start still returns the Handle,
// and the activity is canceled.
func TestStart_CanceledWhileInFlight(t *testing.T) {
	inTime(t, func(t *testing.T, s *server) {
		s.ends(2*time.Minute, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errCancel) })
		h, err := ontemporal.Start(ctx, slowServer{s}, "queue", hour, f, 5)
		checkErr(t, err, nil)
		_, err = h.Wait(t.Context())
		checkEnd(t, err, 1, activity.RetryStateCancelRequested)
		s.check(t, `handle of "a" ""`, "start", "cancel: the user left")
	})
}

// Given an outage during a start, then the error says that the activity may have been started.
func TestStart_MayHaveStarted(t *testing.T) {
	s := newServer()
	for _, err := range []error{context.DeadlineExceeded, serviceerror.NewUnavailable("away")} {
		s.startErr = err
		_, err := ontemporal.Execute(t.Context(), s, "queue", hour, f, 5)
		if err == nil || !strings.HasPrefix(err.Error(), `activity "a": may have been started, `) {
			t.Errorf("got %v", err)
		}
	}
}
