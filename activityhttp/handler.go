package activityhttp

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Options are the options of a [Handler]. The zero Options are ready to use.
type Options struct {
	// Control permits to cancel, pause, unpause, retry and forget activities. Requests from
	// other sites are refused, as [http.CrossOriginProtection] does it. If false, all these
	// requests are refused, and the page has no buttons for them.
	Control bool
}

// Handler returns a handler that serves the page and the JSON of rt. If opts is nil, the zero
// Options are used. Mount it with [http.StripPrefix], behind authentication.
//
// Each Handler keeps a list of the activities that have ended. So call it once for a Runtime, or
// twice if some users may control its activities and others may only watch them.
func Handler(rt *activity.Runtime, opts *Options) http.Handler {
	h := &handler{
		rt:      rt,
		ended:   &endedList{},
		shared:  shared{epoch: time.Now()},
		reading: make(chan struct{}, 1),
		servers: servers{down: map[serverKey]chan struct{}{}},
	}
	if opts != nil {
		h.opts = *opts
	}
	h.routes = map[string]route{
		"/":                {"GET", h.page},
		"/page.css":        {"GET", asset("page.css", "text/css; charset=utf-8")},
		"/page.js":         {"GET", asset("page.js", "text/javascript; charset=utf-8")},
		"/live":            {"GET", h.live},
		"/stack":           {"GET", h.stack(stackPage)},
		"/" + storedPath:   {"GET", h.storedPage},
		"/healthz":         {"GET", h.healthz},
		"/api/activities":  {"GET", h.apiActivities},
		"/api/checkpoints": {"GET", h.apiCheckpoints},
		"/api/stack":       {"GET", h.stack(stackText)},
	}
	for _, act := range actions {
		h.routes["/"+act.name] = route{"POST", h.steer(act, backToPage)}
		h.routes["/api/"+act.name] = route{"POST", h.steer(act, noContent)}
	}
	// The Runtime refers to the list, and not to the handler. So the subscription can end with
	// the handler.
	cancel := rt.Subscribe(h.ended.add, activity.EventCompleted, activity.EventFailed, activity.EventCanceled)
	runtime.AddCleanup(h, func(cancel func()) { cancel() }, cancel)
	return h
}

type handler struct {
	rt      *activity.Runtime
	opts    Options
	routes  map[string]route // by path
	ended   *endedList
	shared  shared
	reading chan struct{} // holds a value while the Store is read
	servers servers
	origin  http.CrossOriginProtection
}

type route struct {
	method string // GET, which includes HEAD, or POST
	serve  http.HandlerFunc
}

// policy is the Content-Security-Policy. It permits the page's own script and style sheet.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	// Not no-referrer, with which browsers send "Origin: null" with a form.
	header.Set("Referrer-Policy", "same-origin")
	h.servers.shutdownOf(r) // as early as possible: see there
	full, _, _ := strings.Cut(r.RequestURI, "?")
	if r.URL.Path == "" && !strings.HasSuffix(full, "/") {
		redirectToSlash(w, r)
		return
	}
	if !strings.HasPrefix(r.URL.Path, "/") { // the prefix was stripped with its slash
		r = withPath(r, "/"+r.URL.Path)
	}
	to, known := h.routes[r.URL.Path]
	switch {
	case !known && strings.Count(r.URL.Path, "/") > 1 && !isAPI(r):
		writeText(w, http.StatusNotFound, "There is no such page.\n") // a page has relative links, which would lead elsewhere
	case !known:
		fail(w, r, http.StatusNotFound, "There is no such page.")
	case to.method == r.Method, to.method == "GET" && r.Method == "HEAD":
		// URL.Query drops what is malformed, and then a filter would be none.
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			fail(w, r, http.StatusBadRequest, "The query is malformed: "+err.Error())
			return
		}
		to.serve(w, r)
	default:
		allow := to.method
		if allow == "GET" {
			allow += ", HEAD"
		}
		header.Set("Allow", allow)
		fail(w, r, http.StatusMethodNotAllowed, "The method must be "+to.method+".")
	}
}

// withPath returns a copy of r with another path.
func withPath(r *http.Request, path string) *http.Request {
	to, u := *r, *r.URL
	u.Path, u.RawPath = path, ""
	to.URL = &u
	return &to
}

// redirectToSlash adds the slash to the end of the prefix, because relative URLs would lead
// elsewhere without it. http.Redirect would write an absolute path, which lacks the prefix.
func redirectToSlash(w http.ResponseWriter, r *http.Request) {
	full, _, _ := strings.Cut(r.RequestURI, "?")
	to, err := url.Parse("./" + path.Base(full) + "/") // it is escaped already
	if err != nil {
		writeText(w, http.StatusBadRequest, "The path is malformed.\n")
		return
	}
	to.RawQuery = r.URL.RawQuery
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusTemporaryRedirect)
}

//go:embed page.html page.css page.js
var files embed.FS

var templates = template.Must(template.ParseFS(files, "page.html"))

// render executes the template of that name. An error means that template and data do not match.
func render(name string, data any) []byte {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// asset serves an embedded file.
func asset(name, contentType string) http.HandlerFunc {
	content, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is not embedded
	}
	return func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, contentType, content) }
}

// write answers a request.
func write(w http.ResponseWriter, status int, contentType string, content []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.WriteHeader(status)
	_, _ = w.Write(content) // an error means that the client has gone
}

func writePage(w http.ResponseWriter, status int, name string, data any) {
	write(w, status, "text/html; charset=utf-8", render(name, data))
}

func writeText(w http.ResponseWriter, status int, text string) {
	write(w, status, "text/plain; charset=utf-8", []byte(text))
}

func isAPI(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/") }

// fail answers a request with an error: as JSON below /api/, and as a page elsewhere.
func fail(w http.ResponseWriter, r *http.Request, status int, text string) {
	if isAPI(r) {
		writeJSON(w, status, apiError{text})
		return
	}
	writePage(w, status, "error", struct{ Title, Text string }{http.StatusText(status), clean(text, maxText)})
}

// idOf returns the ID in the query. If there is none, it answers the request and reports false.
func idOf(w http.ResponseWriter, r *http.Request) (id string, ok bool) {
	if id = r.URL.Query().Get("id"); id == "" {
		fail(w, r, http.StatusBadRequest, "The query has no id.")
	}
	return id, id != ""
}

// page serves the page.
func (h *handler) page(w http.ResponseWriter, r *http.Request) {
	if f, ok := filterOf(w, r); ok {
		writePage(w, http.StatusOK, "page", h.view(f, h.ask(), nil))
	}
}

// stack serves the stack of an activity in the form of show.
func (h *handler) stack(show func(w http.ResponseWriter, id string, stack []byte)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, ok := idOf(w, r)
		if !ok {
			return
		}
		stack, err := h.rt.Stack(id)
		if err != nil {
			fail(w, r, statusOf(err), err.Error())
			return
		}
		show(w, id, stack)
	}
}

func stackPage(w http.ResponseWriter, id string, stack []byte) {
	writePage(w, http.StatusOK, "stack", struct{ ID, Shown, Stack string }{id, shown(id), clean(string(stack), maxStack)})
}

func stackText(w http.ResponseWriter, _ string, stack []byte) {
	write(w, http.StatusOK, "text/plain; charset=utf-8", stack)
}
