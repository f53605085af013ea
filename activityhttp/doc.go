// Package activityhttp serves a page that shows the activities of a Runtime while they run, and
// the same as JSON. It has no authentication, and an import of it registers nothing: mount
// [Handler] behind your own middleware, because IDs, errors, heartbeat details and stacks may be
// confidential, and with Options.Control everyone who reaches the page can cancel your
// activities. An internal address is then not enough, because web pages reach it by DNS rebinding.
//
//	http.Handle("/debug/activities/", onlyAdmins(
//		http.StripPrefix("/debug/activities", activityhttp.Handler(rt, nil))))
//
// All its URLs are relative. So it works below every prefix and behind a reverse proxy. The
// prefix must end in a slash for the browser: http.ServeMux redirects to the slash.
//
// # The page
//
// Each activity has a row. The activities that may need a person come first: those that are
// blocked; those that are stalled, because three quarters of the heartbeat timeout have passed
// in silence, or because a function of an earlier attempt still runs; and those that are failing,
// because they back off, or because the attempt after a failure has had no heartbeat yet. Within
// each group, and after the groups, the oldest activity comes first. A page has 100 rows.
//
// Below are the last 50 activities that have ended since Handler was called. Links lead to the
// stack of a function as it is right now, and to the checkpoints of activities that are stored
// and do not run.
//
// Long texts are cut, such as details, errors and stacks. A text that does not print, such as
// invalid UTF-8, is shown as a Go string literal. Times are in UTC.
//
// If scripts run, the page follows the activities, with at most four updates a second that hold
// only what has changed. Without scripts, reload it.
//
// # Paths
//
// These are relative to where the Handler is mounted. IDs travel in the query, escaped as
// [net/url.QueryEscape] does it, because they may hold any bytes.
//
//	GET  ./                   the page
//	GET  ./live               its updates, as server-sent events; their form may change
//	GET  ./stack?id=ID        the stack, as a page
//	GET  ./stored             the checkpoints, as a page
//	GET  ./healthz            200, or 503 and the reasons
//	GET  ./api/activities     the Stats, and the Status of each activity
//	GET  ./api/activities?id= the Status of one activity
//	GET  ./api/checkpoints    the checkpoints
//	GET  ./api/stack?id=ID    the stack, as text
//	POST ./api/cancel?id=ID   [activity.Runtime.Cancel]; so are pause, unpause and retry
//	POST ./api/forget?id=ID   [activity.Runtime.Forget]
//
// The page and ./api/activities take three filters: find is a part of the ID, name is a part of
// the name, and state is a State, or one of stalled and failing. Find and name ignore case, and
// have at most 1 KiB. An activity has a final State while its end is being saved. ./stored takes
// find and name.
//
// JSON has the fields of [activity.Status.MarshalJSON]. Beside each Status and Checkpoint stands
// a Key, which is the ID, escaped for a query, because JSON cannot hold an ID that is not UTF-8.
// An action that has worked answers 204. So does forget if there is no such checkpoint. An error
// is an object with the field Error: 400 if the query is wrong, 403 without Options.Control or
// from another site, 404 if no such activity runs, 405 for another method, 409 if the activity is
// not in a state for it, and 503 if the Store has failed. ./api/stack also answers 409 if stacks
// were dumped too often, or if there are too many goroutines: see [activity.Runtime.Stack].
//
// ./api/checkpoints is a stream. If the Store fails after the first checkpoint, the connection is
// aborted, so that a part is not taken for the whole. Requests for checkpoints wait for each
// other. If the Store hangs, the next one waits for Config.StoreTimeout.
//
// ./healthz answers 503 if Drain or Shutdown was called, if the Store has failed for longer than
// a minute, or if an activity is blocked.
//
// # Costs
//
// All viewers share what is asked of the Runtime: once per tick, four ticks a second. While
// nobody has the page open, no goroutine and no timer runs. But Handler subscribes to the last
// event of each activity, for the list of those that have ended. That adds some 2 us to each
// activity, as much as a function that does nothing takes. Handler does not subscribe to
// heartbeats, which would make them dear.
//
// # Servers
//
// A stream of updates ends when its viewer leaves, and when the http.Server that serves it is
// shut down, so [net/http.Server.Shutdown] does not wait for viewers. It continues while the Runtime
// drains and after its Shutdown. A stream sets its own deadlines, so that ReadTimeout and
// WriteTimeout of the server do not end it. It needs a ResponseWriter that can flush, and that
// http.NewResponseController finds. If middleware hides that, as http.TimeoutHandler does, the
// page works, but does not update itself.
//
// Each open page holds one connection. Over HTTP/1, browsers open at most six to a host, and
// further pages wait. HTTP/2 has no such limit.
package activityhttp
