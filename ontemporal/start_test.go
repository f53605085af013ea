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

// A slowServer answers a start after a minute, unless the start's context ends.
type slowServer struct{ *server }

func (s slowServer) ExecuteActivity(ctx context.Context, o client.StartActivityOptions, name any, args ...any) (client.ActivityHandle, error) {
	select {
	case <-time.After(time.Minute):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.server.ExecuteActivity(ctx, o, name, args...)
}

// That ctx ends while the server is asked to start it leaves nothing open.
func TestCanceledDuringTheStart(t *testing.T) {
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

// An outage does not say whether it is started.
func TestStartIsNotKnown(t *testing.T) {
	s := newServer()
	for _, err := range []error{context.DeadlineExceeded, serviceerror.NewUnavailable("away")} {
		s.startErr = err
		_, err := ontemporal.Execute(t.Context(), s, "queue", hour, f, 5)
		if err == nil || !strings.HasPrefix(err.Error(), `activity "a": whether it was started is not known, `) {
			t.Errorf("got %v", err)
		}
	}
}
