package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestPermissionErrorsSayWhatToDo(t *testing.T) {
	denied := fmt.Errorf("open the store: %w", fs.ErrPermission)
	if got := permissionHint(denied, 1000); !strings.Contains(got, "user 1000") || !strings.Contains(got, "--store") {
		t.Errorf("to a user: %q", got)
	}
	if got := permissionHint(denied, 0); got != "" {
		t.Errorf("root is told %q", got)
	}
	if got := permissionHint(errors.New("no such image"), 1000); got != "" {
		t.Errorf("of another error: %q", got)
	}
}
