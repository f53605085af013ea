package activitytest

import (
	"bytes"
	"context"
	"regexp"
	"runtime"
	"slices"
)

// owns notes that a runs on this goroutine. If a is nil, the goroutine is outside of all processes.
func (w *World) owns(a *attempt, goid string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owners == nil {
		w.owners = map[string]*attempt{}
	}
	w.owners[goid] = a
}

// caller returns the attempt, or the process, that makes a call with ctx on the calling goroutine. It is
// that of ctx. If ctx has none, it is that of the goroutine, or of the one that started it. If nothing is
// known of these either, it is the process of the newest life. caller returns nil outside of all processes,
// as in the body.
func (w *World) caller(ctx context.Context) *attempt {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		return a
	}
	own := goid()
	w.mu.Lock()
	a, known := w.owners[own]
	w.mu.Unlock()
	if known {
		return a
	}
	parent := parentOf(stack())
	w.mu.Lock()
	defer w.mu.Unlock()
	a, known = w.owners[parent]
	switch {
	case known:
		w.owners[own] = a
	case len(w.lives) > 0:
		a = w.lives[len(w.lives)-1].own
	}
	return a
}

// adopt notes that the life owns all goroutines in the bubble of which no owner is known. It must be called
// before the next life begins.
func (w *World) adopt(l *life) {
	if !w.outside.Load() {
		return
	}
	all := w.goroutines()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range all {
		if _, known := w.owners[g.id]; !known {
			w.owners[g.id] = w.ownerOf(g, all, l.own)
		}
	}
}

// ownerOf returns the owner of the goroutine or, if none is known, of the one that started it, and so on. If
// none of them is known, it returns other. World.mu is held.
func (w *World) ownerOf(g goroutine, all []goroutine, other *attempt) *attempt {
	for {
		if a, known := w.owners[g.id]; known {
			return a
		}
		if a, known := w.owners[g.parent]; known {
			return a
		}
		i := slices.IndexFunc(all, func(p goroutine) bool { return p.id == g.parent })
		if i < 0 {
			return other
		}
		g = all[i]
	}
}

var parentPattern = regexp.MustCompile(`(?m)^created by .* in goroutine (\d+)$`)

// parentOf returns the name of the goroutine that started one, from its dump, or "".
func parentOf(dump []byte) string {
	if m := parentPattern.FindSubmatch(dump); m != nil {
		return string(m[1])
	}
	return ""
}

// stack returns a dump of the calling goroutine.
func stack() []byte {
	for size := 8 << 10; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, false); n < size {
			return buf[:n]
		}
	}
}

// goid returns the number of the calling goroutine in a dump.
func goid() string {
	h := bytes.TrimPrefix(header(), []byte("goroutine "))
	if i := bytes.IndexByte(h, ' '); i >= 0 {
		h = h[:i]
	}
	return string(h)
}

// header returns the header of the calling goroutine in a dump.
func header() []byte {
	b := make([]byte, 100)
	b = b[:runtime.Stack(b, false)]
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[:i]
	}
	return b
}
