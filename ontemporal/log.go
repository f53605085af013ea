package ontemporal

import (
	"context"
	"log/slog"

	"go.temporal.io/sdk/log"
)

// A logHandler passes every record on to the SDK's logger, which filters by level.
type logHandler struct {
	logger log.Logger
	attrs  []any  // alternating keys and values
	prefix string // the names of the open groups, each with a dot
}

// Enabled implements [slog.Handler].
func (h *logHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	attrs := h.attrs[:len(h.attrs):len(h.attrs)]
	r.Attrs(func(a slog.Attr) bool {
		attrs = appendAttr(attrs, h.prefix, a)
		return true
	})
	log := h.logger.Debug
	switch {
	case r.Level >= slog.LevelError:
		log = h.logger.Error
	case r.Level >= slog.LevelWarn:
		log = h.logger.Warn
	case r.Level >= slog.LevelInfo:
		log = h.logger.Info
	}
	log(r.Message, attrs...)
	return nil
}

// WithAttrs implements [slog.Handler].
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = h.attrs[:len(h.attrs):len(h.attrs)]
	for _, a := range attrs {
		c.attrs = appendAttr(c.attrs, h.prefix, a)
	}
	return &c
}

// WithGroup implements [slog.Handler].
func (h *logHandler) WithGroup(name string) slog.Handler {
	c := *h
	if name != "" {
		c.prefix += name + "."
	}
	return &c
}

func appendAttr(attrs []any, prefix string, a slog.Attr) []any {
	value := a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
		return attrs
	case value.Kind() == slog.KindGroup:
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, a := range value.Group() {
			attrs = appendAttr(attrs, prefix, a)
		}
		return attrs
	}
	return append(attrs, prefix+a.Key, value.Any())
}
