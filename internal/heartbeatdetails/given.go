// Package heartbeatdetails says what heartbeat details are, for every engine.
package heartbeatdetails

import "reflect"

// Given reports whether these are details. None are, nor is a single nil or nil pointer,
// because there is nothing to resume from.
func Given(details []any) bool {
	switch {
	case len(details) != 1:
		return len(details) > 1
	case details[0] == nil:
		return false
	}
	if _, isInt := details[0].(int); isInt { // the usual case
		return true
	}
	p := reflect.ValueOf(details[0])
	return p.Kind() != reflect.Pointer || !p.IsNil()
}
