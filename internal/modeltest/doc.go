// Package modeltest tests package activity with random scripts. It has tests only, and
// they use the exported API only.
//
//   - model_test.go is a second, sequential implementation of the rules. It shares no code
//     with package activity. model_run_test.go draws scripts, runs them on both, and
//     compares the events.
//   - durable_model_test.go is a model of what the Store holds over several lives of a
//     program, and durable_model_run_test.go runs it.
//   - range_model_test.go is a model of Range and RangeParallel over several lives of a
//     program, and range_model_run_test.go runs it.
//   - stress_test.go runs the scripts of the first model freely, on the real clock and many
//     at once, or again and again in a bubble.
//
// The flags -model.n, -durable.n and -range.n say how many scripts run. A failure prints its
// seed, which -model.seed, -durable.seed or -range.seed runs again.
package modeltest
