package activity

import (
	"fmt"
	"reflect"
	"strings"
)

// MarshalText returns the text of String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText returns the text of String.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// MarshalText returns the text of String.
func (t TimeoutType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalText returns the text of String.
func (s RetryState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText returns the text of String.
func (s CheckpointState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText sets the value from the text of String. Any other text is an error.
func (s *State) UnmarshalText(text []byte) error { return parseEnum(s, text) }

// UnmarshalText sets the value from the text of String. Any other text is an error.
func (k *EventKind) UnmarshalText(text []byte) error { return parseEnum(k, text) }

// UnmarshalText sets the value from the text of String. Any other text is an error.
func (t *TimeoutType) UnmarshalText(text []byte) error { return parseEnum(t, text) }

// UnmarshalText sets the value from the text of String. Any other text is an error.
func (s *RetryState) UnmarshalText(text []byte) error { return parseEnum(s, text) }

// UnmarshalText sets the value from the text of String. Any other text is an error.
func (s *CheckpointState) UnmarshalText(text []byte) error { return parseEnum(s, text) }

// parseEnum sets *v to the value whose String is text. It refuses the text of a value without
// a name, such as "State(42)". The named values are consecutive and begin at 0.
func parseEnum[T interface {
	~int
	String() string
}](v *T, text []byte) error {
	for i := T(0); !strings.HasSuffix(i.String(), ")"); i++ {
		if i.String() == string(text) {
			*v = i
			return nil
		}
	}
	return fmt.Errorf("activity: unknown %s %q", reflect.TypeFor[T]().Name(), text)
}
