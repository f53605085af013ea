// Package servertest compares package ontemporal with the embedded runtime, on a
// real Temporal server, which the tests start.
//
//	cd ontemporal/servertest && GOWORK=off go test ./...
//
// The package has only tests. A scenario is an activity and its caller, and runs on both
// engines. The function and the caller note what they see, and the notes must be those
// of the scenario. They are the same on both engines, except for the differences that the
// scenario lists with their reasons. If a difference is gone, the test fails.
//
// The module is not in go.work, because its server has many dependencies, which take
// minutes to build.
package servertest
