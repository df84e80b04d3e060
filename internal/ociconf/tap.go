package ociconf

import (
	"bufio"
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// Outcome is how one program judged one runtime.
type Outcome struct {
	Passed bool `json:"passed"`
	// OK and Total count the program's own tests; skipped ones are OK.
	OK    int `json:"ok"`
	Total int `json:"total"`
	// Failed describes the first few tests that failed, or what went wrong
	// outside of any test.
	Failed []string `json:"failed,omitempty"`
}

// maxFailed bounds Outcome.Failed: the table needs a hint, not a log.
const maxFailed = 3

// errorLine is the program's own report of an error, in the block that follows
// a test or, in programs that never report a test, stands alone.
var errorLine = regexp.MustCompile(`^\s*"error":\s*"(.*)",?\s*$`)

// Judge reads the TAP output of a program that ended with exit code rc.
//
// A program passes when it ended with 0, no test of it failed, and no error
// block stands outside of a test. The last rule is for the programs about
// hooks, which print nothing else: an error block after "ok" belongs to a test
// that wanted the error. So a program may pass without a single test.
func Judge(output []byte, rc int) Outcome {
	var o Outcome
	fail := func(format string, args ...any) {
		if len(o.Failed) < maxFailed {
			o.Failed = append(o.Failed, fmt.Sprintf(format, args...))
		}
	}
	inTest, errors, notOK := false, 0, 0
	sc := bufio.NewScanner(bytes.NewReader(output))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		switch {
		case strings.HasPrefix(line, "ok "):
			inTest = true
			o.OK++
			o.Total++
		case strings.HasPrefix(line, "not ok "):
			inTest = true
			o.Total++
			notOK++
			fail("%s", describe(line))
		case strings.TrimSpace(line) == "...":
			inTest = false // the block of a test has ended
		case errorLine.MatchString(line) && !inTest:
			errors++
			fail("error: %s", errorLine.FindStringSubmatch(line)[1])
		}
	}
	switch {
	case sc.Err() != nil:
		fail("output: %v", sc.Err())
	case rc != 0:
		fail("exit status %d", rc)
	}
	o.Passed = rc == 0 && notOK == 0 && errors == 0 && sc.Err() == nil
	return o
}

// describe shortens "not ok 4 - text" to its text.
func describe(line string) string {
	_, text, found := strings.Cut(line, " - ")
	if !found {
		return line
	}
	const most = 160
	if len(text) > most {
		text = text[:most] + "..."
	}
	return text
}
