package archtest_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/hvctl/hvctl"

func TestImportsFollowTheLayers(t *testing.T) {
	root := os.DirFS("../..")
	mod, err := fs.ReadFile(root, "go.mod")
	if err != nil || !strings.HasPrefix(string(mod), "module "+module+"\n") {
		t.Fatalf("../.. is not the root of %s: %v", module, err)
	}
	problems, files, err := check(root, layers)
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Errorf("only %d Go files were read", files)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

// check reads every Go file below root and returns what breaks the rules.
func check(root fs.FS, layers map[string]string) (problems []string, files int, err error) {
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := path.Base(name)
			if name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata") || name == "out" || name == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		files++
		imports, err := importsOf(root, name)
		if err != nil {
			return err
		}
		for _, imp := range imports {
			if p := judge(layers, name, imp); p != "" {
				problems = append(problems, p)
			}
		}
		if _, ok := layers[path.Dir(name)]; !ok && !strings.HasSuffix(name, "_test.go") {
			problems = append(problems, fmt.Sprintf("%s: package %s has no row in internal/archtest/layers_test.go", name, path.Dir(name)))
		}
		return nil
	})
	return problems, files, err
}

func importsOf(root fs.FS, name string) ([]string, error) {
	src, err := fs.ReadFile(root, name)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var imports []string
	for _, spec := range file.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		imports = append(imports, imp)
	}
	return imports, nil
}

// judge returns what is wrong with file importing imp, or "".
func judge(layers map[string]string, file, imp string) string {
	dir, test := path.Dir(file), strings.HasSuffix(file, "_test.go")
	switch {
	case imp == "C":
		return fmt.Sprintf("%s: no cgo: programs are static and cross-compile", file)
	case imp == "unsafe":
		stem := strings.TrimSuffix(strings.TrimSuffix(file, ".go"), "_test")
		if !mayBeUnsafe[dir] && !strings.HasSuffix(stem, "_unsafe") {
			return fmt.Sprintf("%s: unsafe belongs to kvm, memory and files named *_unsafe.go", file)
		}
		return ""
	case test:
		return ""
	}
	for third, why := range thirdPartyOnlyInTests {
		if imp == third || strings.HasPrefix(imp, third+"/") {
			return fmt.Sprintf("%s: %s is for tests only: %s", file, third, why)
		}
	}
	if imp == module {
		return fmt.Sprintf("%s: the module's root is no package", file)
	}
	ours, ok := strings.CutPrefix(imp, module+"/")
	if !ok || allowed(layers[dir], ours) {
		return ""
	}
	return fmt.Sprintf("%s: package %s may not import %s (internal/archtest/layers_test.go)", file, dir, ours)
}

func allowed(row, imp string) bool {
	for a := range strings.FieldsSeq(row) {
		below, wild := strings.CutSuffix(a, "/...")
		if a == "*" || a == imp || wild && (imp == below || strings.HasPrefix(imp, below+"/")) {
			return true
		}
	}
	return false
}

func TestRowsNameRowsOnly(t *testing.T) {
	for dir, row := range layers {
		for a := range strings.FieldsSeq(row) {
			below, wild := strings.CutSuffix(a, "/...")
			found := a == "*"
			for other := range layers {
				found = found || other == a || wild && strings.HasPrefix(other, below+"/")
			}
			if !found {
				t.Errorf("the row of %s names %s, which has no row", dir, a)
			}
		}
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	table := map[string]string{"a": "b c/...", "b": "", "c/d": "", "kvm": ""}
	for _, tc := range []struct{ name, file, src, want string }{
		{"allowed edge", "a/x.go", `import _ "` + module + `/b"`, ""},
		{"allowed below", "a/x.go", `import _ "` + module + `/c/d"`, ""},
		{"unlisted edge", "b/x.go", `import _ "` + module + `/a"`, "b may not import a"},
		{"unlisted package", "z/x.go", "", "package z has no row"},
		{"edge in a test", "b/x_test.go", `import _ "` + module + `/a"`, ""},
		{"oracle in code", "kvm/x.go", `import _ "github.com/bobuhiro11/gokvm/kvm"`, "tests only"},
		{"oracle in a test", "kvm/x_test.go", `import _ "github.com/bobuhiro11/gokvm/kvm"`, ""},
		{"unsafe in kvm", "kvm/x.go", `import _ "unsafe"`, ""},
		{"unsafe in a marked file", "a/x_unsafe.go", `import _ "unsafe"`, ""},
		{"unsafe elsewhere", "a/x.go", `import _ "unsafe"`, "unsafe belongs to"},
		{"unsafe in a test", "a/x_test.go", `import _ "unsafe"`, "unsafe belongs to"},
		{"cgo", "a/x.go", `import "C"`, "no cgo"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := fstest.MapFS{filepath.ToSlash(tc.file): {Data: []byte("package x\n" + tc.src + "\n")}}
			problems, files, err := check(root, table)
			if err != nil || files != 1 {
				t.Fatalf("%d files, err %v", files, err)
			}
			got := strings.Join(problems, "\n")
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("problems %q, want %q", got, tc.want)
			}
		})
	}
}
