// Package browsertest tests the page of package activityhttp in a browser. It is a module of its
// own, outside go.work, because nothing else needs a browser.
//
//	GOWORK=off go test ./...                                     # is skipped without a browser
//	GOWORK=off go test ./... -browser=required                   # fails without one
//	GOWORK=off go test ./... -screenshots=/tmp -run Screenshots  # writes PNG files, to be looked at
package browsertest
