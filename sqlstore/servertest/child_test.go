package servertest

// childEnv is the environment variable that makes the test binary run a function of child.
const childEnv = "SQLSTORE_TEST_CHILD"

// child has the programs that tests start as processes of their own.
var child = map[string]func(){}
