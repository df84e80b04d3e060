package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

const modulePath = "github.com/hvctl/hvctl"

// needsOf maps an import path to its top-level tests and what each needs, in
// the words of package testenv (KVM, Root, Linux, ...).
type needsOf map[string]map[string]map[string]bool

// function is what one function of a package's tests mentions.
type function struct {
	needs map[string]bool
	uses  map[string]bool
}

// findNeeds reads every test file below root. A test needs what it, or any
// function of its package's tests that it mentions, hands to testenv.Require.
func findNeeds(root string) (needsOf, error) {
	dirs := map[string]map[string]*function{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "vendor"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		dir := filepath.Dir(path)
		if dirs[dir] == nil {
			dirs[dir] = map[string]*function{}
		}
		return readTestFile(path, dirs[dir])
	})
	if err != nil {
		return nil, err
	}
	all := needsOf{}
	for dir, funcs := range dirs {
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return nil, err
		}
		pkg := modulePath
		if rel != "." {
			pkg += "/" + filepath.ToSlash(rel)
		}
		all[pkg] = map[string]map[string]bool{}
		for name := range funcs {
			if isTest(name) {
				all[pkg][name] = closure(funcs, name)
			}
		}
	}
	return all, nil
}

func isTest(name string) bool {
	return strings.HasPrefix(name, "Test") && name != "TestMain" ||
		strings.HasPrefix(name, "Fuzz") || strings.HasPrefix(name, "Example")
}

func readTestFile(path string, into map[string]*function) error {
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	// A file that does not parse is go test's to report.
	file, err := parser.ParseFile(token.NewFileSet(), path, src, parser.SkipObjectResolution)
	if err != nil {
		return nil
	}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		f := into[fn.Name.Name]
		if f == nil {
			f = &function{needs: map[string]bool{}, uses: map[string]bool{}}
			into[fn.Name.Name] = f
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				f.uses[n.Name] = true
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "testenv" && ast.IsExported(n.Sel.Name) {
					switch n.Sel.Name {
					case "Require", "Need", "TestKernels", "TestStore", "OCISuiteDir", "LoadAppArmorProfile":
					default:
						f.needs[n.Sel.Name] = true
					}
				}
			}
			return true
		})
	}
	return nil
}

// closure unites the needs of everything reachable from name.
func closure(funcs map[string]*function, name string) map[string]bool {
	needs, seen, todo := map[string]bool{}, map[string]bool{}, []string{name}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		f := funcs[n]
		if f == nil || seen[n] {
			continue
		}
		seen[n] = true
		for need := range f.needs {
			needs[need] = true
		}
		for use := range f.uses {
			if !isTest(use) {
				todo = append(todo, use)
			}
		}
	}
	return needs
}

// wantsMachine says whether the needs make a test one of the kvm tier, which
// is also run in the test host. The others are tools, which a unit test may
// need too.
func wantsMachine(needs map[string]bool) bool {
	return needs["KVM"] || needs["Root"] || needs["Linux"] || needs["VhostVsock"] || needs["Landlock"]
}

// bootNeeds are those that a machine has to be booted for: a kernel runs with
// one of them at most, or with none.
var bootNeeds = []string{"", "AppArmor", "SELinux", "CgroupV1"}

// printNeeds writes the packages that have tests for the test host, once for
// each way that the machine has to be booted.
func printNeeds(w io.Writer, root string) error {
	all, err := findNeeds(root)
	if err != nil {
		return err
	}
	for _, pkg := range sortedKeys(all) {
		for _, boot := range bootNeeds {
			needs, tests := map[string]bool{}, []string{}
			for _, test := range sortedKeys(all[pkg]) {
				if !wantsMachine(all[pkg][test]) || bootNeed(all[pkg][test]) != boot {
					continue
				}
				tests = append(tests, test)
				for n := range all[pkg][test] {
					needs[n] = true
				}
			}
			if len(tests) == 0 {
				continue
			}
			dir := "." + strings.TrimPrefix(pkg, modulePath)
			if _, err := fmt.Fprintf(w, "%s\t%s\t%s\n", dir, strings.Join(sortedKeys(needs), ","), strings.Join(tests, "|")); err != nil {
				return err
			}
		}
	}
	return nil
}

// bootNeed is the one of bootNeeds that is among needs.
func bootNeed(needs map[string]bool) string {
	for _, n := range bootNeeds {
		if needs[n] {
			return n
		}
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
