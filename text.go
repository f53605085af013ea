package activity

import (
	"fmt"
	"reflect"
	"strings"
)

// MarshalText gives the state's String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText gives the kind's String.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// MarshalText gives the type's String.
func (t TimeoutType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalText gives the state's String.
func (s RetryState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText gives the state's String.
func (s CheckpointState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes what String gives. Any other text is an error.
func (s *State) UnmarshalText(text []byte) error { return parseEnum(s, text) }

// UnmarshalText takes what String gives. Any other text is an error.
func (k *EventKind) UnmarshalText(text []byte) error { return parseEnum(k, text) }

// UnmarshalText takes what String gives. Any other text is an error.
func (t *TimeoutType) UnmarshalText(text []byte) error { return parseEnum(t, text) }

// UnmarshalText takes what String gives. Any other text is an error.
func (s *RetryState) UnmarshalText(text []byte) error { return parseEnum(s, text) }

// UnmarshalText takes what String gives. Any other text is an error.
func (s *CheckpointState) UnmarshalText(text []byte) error { return parseEnum(s, text) }

// parseEnum is the inverse of enum. It refuses a value without a name, such as "State(42)".
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
