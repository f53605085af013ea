// Package bodywatch lets package activitytest see which body of an activity.RangeParallel
// makes a call.
package bodywatch

import "context"

// A Watcher is an activity.Engine through which RangeParallel runs its bodies.
type Watcher interface {
	// WatchBody calls body, which is the body of number i, and then, if body has returned
	// nil, record, which records that it is done. It returns the error of the one that was
	// called last. ctx is the context of all bodies. The context for body is derived from it.
	WatchBody(ctx context.Context, i int, body func(ctx context.Context) error, record func() error) error
}
