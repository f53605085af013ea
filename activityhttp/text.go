package activityhttp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/inside"
)

// The largest sizes of what a page shows, in bytes.
const (
	maxName    = 1 << 10 // of an ID and a name
	maxDetails = 2 << 10
	maxText    = 4 << 10 // of an error
	maxStack   = 16 << 10
)

// shown returns an ID or a name for people. If it does not print, or looks as if it were quoted
// already, it is quoted.
func shown(s string) string {
	plain := !strings.HasPrefix(s, `"`) && utf8.ValidString(s)
	for _, r := range s {
		plain = plain && strconv.IsPrint(r)
	}
	if !plain {
		s = strconv.Quote(s)
	}
	return clean(s, maxName)
}

// clean cuts a text of several lines to limit bytes, and escapes what does not print. Among that
// are characters that change the direction of the text.
func clean(s string, limit int) string {
	if len(s) > limit {
		return escape(cut(s, limit)) + cutNote(len(s))
	}
	return escape(s)
}

// cut returns at most limit bytes of s. It does not split a rune.
func cut(s string, limit int) string {
	for i := limit; i > max(limit-utf8.UTFMax, 0); i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:limit] // it is not UTF-8
}

func cutNote(size int) string { return fmt.Sprintf("… (cut: %d bytes in all)", size) }

// escape escapes what does not print, as in a Go string literal.
func escape(s string) string {
	var b strings.Builder
	for rest := s; len(rest) > 0; {
		r, size := utf8.DecodeRuneInString(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, rest[0])
		case r == '\n', r == '\t', strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		rest = rest[size:]
	}
	return b.String()
}

// describe returns the text of err, and the stack that it has or wraps. A method of err may
// panic.
func describe(err error) (text, stack string) {
	if err == nil {
		return "", ""
	}
	return clean(inside.ErrorText(err), maxText), clean(string(stackOf(err)), maxStack)
}

func stackOf(err error) []byte {
	defer func() { _ = recover() }() // of an Unwrap or As method, or because the error is a nil pointer
	if e := (*activity.TimeoutError)(nil); errors.As(err, &e) && len(e.Stack) > 0 {
		return e.Stack
	}
	if e := (*activity.PanicError)(nil); errors.As(err, &e) {
		return e.Stack
	}
	return nil
}

// detailsText returns the values of heartbeat details, separated by commas. [activity.TimeoutError]
// describes how they are encoded.
func detailsText(details []byte) string {
	var b strings.Builder
	for rest := details; len(rest) > 0 && b.Len() <= maxDetails; {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return fmt.Sprintf("damaged details of %d bytes", len(details))
		}
		if len(rest) < len(details) {
			b.WriteString(", ")
		}
		value := rest[size : size+int(n)]
		b.Write(value[:min(len(value), maxDetails+1)]) // one more, so that it is cut below
		rest = rest[size+int(n):]
	}
	if b.Len() > maxDetails {
		return escape(cut(b.String(), maxDetails)) + cutNote(len(details))
	}
	return escape(b.String())
}

// duration returns d for people, in one or two units.
func duration(d time.Duration) string {
	s := int64(d / time.Second)
	switch {
	case d > 0 && s == 0:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case s < 60:
		return fmt.Sprintf("%d s", max(s, 0))
	case s < 60*60:
		return units(s/60, "min", s%60, "s")
	case s < 48*60*60:
		return units(s/3600, "h", s/60%60, "min")
	default:
		return units(s/86400, "d", s/3600%24, "h")
	}
}

// units returns an amount in two units. The smaller one is left out if it is zero.
func units(n int64, unit string, rest int64, smaller string) string {
	text := fmt.Sprintf("%d %s", n, unit)
	if rest > 0 {
		text += fmt.Sprintf(" %d %s", rest, smaller)
	}
	return text
}

// ago returns the time from then to now in whole seconds, so that it does not change with each
// update.
func ago(now, then time.Time) string { return duration(now.Sub(then).Truncate(time.Second)) }

// rate returns how many steps an attempt does in a unit of time, if it has done n in d.
func rate(n int, d time.Duration) string {
	perSecond := float64(n) / d.Seconds()
	switch {
	case perSecond >= 10:
		return fmt.Sprintf("%.0f/s", perSecond)
	case perSecond >= 0.1:
		return fmt.Sprintf("%.1f/s", perSecond)
	case perSecond*60 >= 0.1:
		return fmt.Sprintf("%.1f/min", perSecond*60)
	default:
		return fmt.Sprintf("%.1f/h", perSecond*3600)
	}
}
