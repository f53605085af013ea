// White box: how the Options are kept.

package activity

import (
	"reflect"
	"testing"
)

// setField makes the field something else than zero.
func setField(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Func:
		v.Set(reflect.MakeFunc(v.Type(), nil))
	default:
		t.Fatalf("a %s", v.Kind())
	}
}

// An option that were forgotten where they are told apart would be lost.
func TestEachOptionIsKept(t *testing.T) {
	rt := New(Config{})
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Options]()) {
		var o Options
		switch f.Name {
		case "HeartbeatDetails": // encoded at once
		case "RetryPolicy":
			for _, f := range reflect.VisibleFields(reflect.TypeFor[RetryPolicy]()) {
				var o Options
				setField(t, reflect.ValueOf(&o.RetryPolicy).Elem().FieldByIndex(f.Index))
				want := reflect.ValueOf(o.RetryPolicy).FieldByIndex(f.Index)
				got := reflect.ValueOf(rt.settings(&o).RetryPolicy).FieldByIndex(f.Index)
				if f.Type.Kind() == reflect.Func && !got.IsNil() {
					continue
				}
				if !got.Equal(want) {
					t.Errorf("RetryPolicy.%s is %v, want %v", f.Name, got, want)
				}
			}
		default:
			setField(t, reflect.ValueOf(&o).Elem().FieldByIndex(f.Index))
			want := reflect.ValueOf(o).FieldByIndex(f.Index)
			got := reflect.ValueOf(rt.settings(&o)).FieldByName(f.Name)
			if !got.Equal(want) {
				t.Errorf("%s is %v, want %v", f.Name, got, want)
			}
		}
	}
}
