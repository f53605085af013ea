package activitytest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"runtime"
	"sync"
)

// A goroutine of a dead process ends with runtime.Goexit, which makes its deferred calls. A function such as
//
//	mu.Lock()
//	defer mu.Unlock()
//	rows = append(rows, row)
//	mu.Unlock()
//	activitytest.Point(ctx, "inserted")
//	mu.Lock()
//
// would then unlock a mutex that is not locked, which ends the test program. So the goroutine stays at its
// place instead if a function on its stack would do so.

// relocks reports whether such a function of the user is on the stack.
func relocks() bool {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for more := true; more; {
		var f runtime.Frame
		if f, more = frames.Next(); !notTheUsers.MatchString(f.Function) && relocksAt(f.File, f.Line) {
			return true
		}
	}
	return false
}

var relocked sync.Map // result of relocksAt, by file and line

func relocksAt(file string, line int) bool {
	type place struct {
		file string
		line int
	}
	if known, ok := relocked.Load(place{file, line}); ok {
		return known.(bool)
	}
	found := false
	files := token.NewFileSet()
	if parsed, err := parser.ParseFile(files, file, nil, parser.SkipObjectResolution); err == nil { // else there is no source
		ast.Inspect(parsed, func(n ast.Node) bool {
			if n == nil || files.Position(n.Pos()).Line > line || files.Position(n.End()).Line < line {
				return false
			}
			var body *ast.BlockStmt
			switch f := n.(type) {
			case *ast.FuncDecl:
				body = f.Body
			case *ast.FuncLit:
				body = f.Body
			}
			switch {
			case body == nil:
			case files.Position(n.Pos()).Line == line: // and those around it may be meant as well
				found = found || unlocks(files, body, line)
			default: // that of the innermost function remains
				found = unlocks(files, body, line)
			}
			return true
		})
	}
	relocked.Store(place{file, line}, found)
	return found
}

// unlocks reports whether the deferred calls of a function unlock a mutex that it does not hold in that line, as
// far as the order of its lines tells.
func unlocks(files *token.FileSet, body *ast.BlockStmt, line int) bool {
	held := map[string]int{} // by mutex, the locks less the unlocks, including those that are deferred
	var count func(n ast.Node, deferred bool)
	count = func(n ast.Node, deferred bool) {
		ast.Inspect(n, func(n ast.Node) bool {
			if n == nil || files.Position(n.Pos()).Line >= line {
				return false
			}
			switch n := n.(type) {
			case *ast.DeferStmt:
				count(n.Call, true)
				return false
			case *ast.FuncLit: // another function, unless it is the deferred call
				return deferred
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.SelectorExpr); ok {
					switch f.Sel.Name {
					case "Lock", "RLock":
						held[types.ExprString(f.X)]++
					case "Unlock", "RUnlock":
						held[types.ExprString(f.X)]--
					}
				}
			}
			return true
		})
	}
	count(body, false)
	for _, n := range held {
		if n < 0 {
			return true
		}
	}
	return false
}
