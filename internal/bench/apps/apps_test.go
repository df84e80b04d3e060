package apps

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestFiguresAreReadFromToolsOutput(t *testing.T) {
	for name, c := range map[string]struct {
		read func([]byte) (map[string]float64, error)
		text string
		want map[string]float64
	}{
		"redis":  {readRedis, "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"50000.00\",\"0.2\"\n\"GET\",\"100000.00\",\"0.1\"\n", map[string]float64{"set": 20000, "get": 10000}},
		"ab":     {readAB, "Failed requests:        0\nTime per request:       2.000 [ms] (mean)\nTime per request:       0.250 [ms] (mean, across all concurrent requests)\n", map[string]float64{"request": 250000}},
		"sqlite": {readSQLite, "Run Time: real 0.120 user 0.1 sys 0.0\nRun Time: real 0.010 user 0 sys 0\n7\nRun Time: real 0.000 user 0 sys 0\n", map[string]float64{"insert": 120e6, "index": 10e6, "select": 0.5e6}},
		"named":  {readNamed, "request 12\n", map[string]float64{"request": 12}},
	} {
		got, err := c.read([]byte(c.text))
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		for k, v := range c.want {
			if math.Abs(got[k]-v) > 1e-6*v {
				t.Errorf("%s: %s is %v, want %v", name, k, got[k], v)
			}
		}
	}
}

func TestOtherOutputIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		read func([]byte) (map[string]float64, error)
		text string
	}{
		"redis without a rate": {readRedis, "\"SET\",\"0\"\n\"GET\",\"1\"\n"}, "redis alone": {readRedis, "\"SET\",\"1\"\n"},
		"failed requests": {readAB, "Failed requests: 3\n"}, "two statements": {readSQLite, "Run Time: real 1 user\n"},
		"no number": {readNamed, "request NaN\n"}, "nothing": {readNamed, ""}, "less than nothing": {readNamed, "file -4\n"},
	} {
		if got, err := c.read([]byte(c.text)); !errors.Is(err, errOutput) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// Every load can be made smaller, and says so in the command that runs.
func TestLoadsScale(t *testing.T) {
	small := All(1)
	for i, whole := range All(100) {
		a, b := strings.Join(whole.Argv, " "), strings.Join(small[i].Argv, " ")
		if a == b || strings.Contains(a+b, "%!") {
			t.Errorf("%s: %s", whole.Name, b)
		}
	}
	if s := strings.Join(small[0].Argv, " "); !strings.Contains(s, "-n 50 -c") {
		t.Error(s)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("\"SET\",\"1\"\nTime per request: 1 [ms] (mean, across all concurrent requests)\nRun Time: real 1 user\nrequest 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, a := range All(100) {
			figures, err := a.Read(b)
			for name, v := range figures {
				if err == nil && !(v > 0) {
					t.Errorf("%s: %s is %v", a.Name, name, v)
				}
			}
		}
	})
}
