package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The caps of the house.
const (
	maxFileLines     = 400
	maxFunctionLines = 60
	maxMethods       = 4
	maxParameters    = 4 // after a leading context.Context
)

const modulePath = "github.com/waystation-iot/waystation/"

// goFile is one parsed file of the module.
type goFile struct {
	path string // from the root, with slashes
	pkg  string // folder
	ast  *ast.File
	set  *token.FileSet
	text string
}

// house parses every Go file of the module.
func house(t *testing.T) []goFile {
	t.Helper()
	var out []goFile
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		if d.IsDir() && (strings.HasPrefix(rel, ".git") || d.Name() == "testdata" || rel == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, rel, text, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, goFile{rel, filepath.ToSlash(filepath.Dir(rel)), f, set, string(text)})
		return nil
	})
	if err != nil || len(out) < 20 {
		t.Fatalf("parsed %d files: %v", len(out), err)
	}
	return out
}

// mayImport says whether package folder from may import folder to, both ours.
func mayImport(from, to string) bool {
	switch {
	case strings.HasPrefix(from, "cmd/"):
		return !strings.HasPrefix(to, "cmd/") || strings.HasPrefix(to, from+"/")
	case from == "buffer/lab": // a module of its own, outside the product
		return to == "buffer"
	case from == "buffer", strings.HasPrefix(from, "firmware"):
		return false
	case from == "gateway":
		return to == "buffer"
	case strings.HasPrefix(from, "gateway/"):
		return to == "gateway"
	case from == "adapters":
		return to == "gateway" || strings.HasPrefix(to, "adapters/") || to == "configs/devices"
	case strings.HasPrefix(from, "adapters/") && strings.HasSuffix(from, "test"):
		return false
	case strings.HasPrefix(from, "adapters/"):
		return to == "gateway" || to == "gateway/codec"
	}
	return false
}

// TestImports holds the arrows of docs/architecture.md. Tests of an adapter may
// besides import its simulator, the conformance suite and the queue.
func TestImports(t *testing.T) {
	for _, f := range house(t) {
		for _, imp := range f.ast.Imports {
			to, ours := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), modulePath)
			if !ours || mayImport(f.pkg, to) || f.pkg == to {
				continue
			}
			test := strings.HasSuffix(f.path, "_test.go")
			if test && (to == "gateway/gatewaytest" || to == "buffer" || strings.HasPrefix(to, f.pkg+"/")) {
				continue
			}
			t.Errorf("%s imports %s: not an arrow of docs/architecture.md", f.path, to)
		}
	}
}

// TestTopLevel holds the list of what lies at the top.
func TestTopLevel(t *testing.T) {
	allowed := map[string]bool{}
	for _, n := range strings.Fields("gateway adapters buffer firmware configs deploy cmd docs go.mod go.sum Makefile README.md LICENSE .ci .git .gitignore bin") {
		allowed[n] = true
	}
	entries, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !allowed[e.Name()] {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
	for _, f := range house(t) {
		for _, part := range strings.Split(f.pkg, "/") {
			switch part {
			case "internal", "pkg", "util", "utils", "common", "types", "helpers":
				t.Errorf("%s: no package is named %s: say what it is for", f.path, part)
			}
		}
	}
}

// TestCaps holds the sizes of files, functions, interfaces and parameter lists.
func TestCaps(t *testing.T) {
	for _, f := range house(t) {
		if n := strings.Count(f.text, "\n"); n > maxFileLines {
			t.Errorf("%s: %d lines, at most %d", f.path, n, maxFileLines)
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.FuncDecl:
				lines := f.set.Position(x.End()).Line - f.set.Position(x.Pos()).Line + 1
				if lines > maxFunctionLines {
					t.Errorf("%s: %s has %d lines, at most %d", f.path, x.Name.Name, lines, maxFunctionLines)
				}
				if p := parameters(x.Type); p > maxParameters {
					t.Errorf("%s: %s has %d parameters, at most %d", f.path, x.Name.Name, p, maxParameters)
				}
				if x.Name.Name == "init" && x.Recv == nil {
					t.Errorf("%s: no init functions", f.path)
				}
			case *ast.InterfaceType:
				if n := x.Methods.NumFields(); n > maxMethods {
					t.Errorf("%s:%d: interface of %d methods, at most %d", f.path, f.set.Position(x.Pos()).Line, n, maxMethods)
				}
			}
			return true
		})
	}
}

// parameters counts them, a leading context left out.
func parameters(ft *ast.FuncType) (n int) {
	for i, p := range ft.Params.List {
		if sel, ok := p.Type.(*ast.SelectorExpr); ok && i == 0 && sel.Sel.Name == "Context" {
			continue
		}
		n += max(1, len(p.Names))
	}
	return n
}

// TestComments holds package comments, a comment on every mutex, and that no
// test sleeps.
func TestComments(t *testing.T) {
	documented := map[string]bool{}
	files := house(t)
	for _, f := range files {
		documented[f.pkg] = documented[f.pkg] || f.ast.Doc != nil
	}
	mutex := regexp.MustCompile(`^\s*(\w+\s+)?sync\.(RW)?Mutex\b`)
	for _, f := range files {
		if !documented[f.pkg] {
			t.Errorf("%s: no package comment in any file of %s", f.path, f.pkg)
			documented[f.pkg] = true // say it once
		}
		lines := strings.Split(f.text, "\n")
		for i, l := range lines {
			above := i > 0 && strings.HasPrefix(strings.TrimSpace(lines[i-1]), "//")
			if mutex.MatchString(l) && !strings.Contains(l, "//") && !above {
				t.Errorf("%s:%d: say what this mutex guards", f.path, i+1)
			}
			if strings.Contains(l, "time."+"Sleep(") && strings.HasSuffix(f.path, "_test.go") &&
				!strings.HasPrefix(f.pkg, "cmd/") && !strings.Contains(f.text, `"testing/synctest"`) { // there it takes no time
				t.Errorf("%s:%d: no sleeping in tests", f.path, i+1)
			}
		}
	}
}
