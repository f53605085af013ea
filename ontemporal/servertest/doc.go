// Package servertest compares package ontemporal with the embedded runtime, on a
// real Temporal server, which the tests start.
//
// It has tests only. Each scenario is an activity and what its caller does, and is
// run on both engines. What can be seen of it, by the function and by the caller,
// is compared with what the scenario says: the same for both, but for the
// differences that are listed with it, and that are checked to be still there.
//
// It is a module of its own, and not in go.work: the server's dependencies are
// many, and building them takes minutes.
//
//	cd ontemporal/servertest && GOWORK=off go test ./...
package servertest
