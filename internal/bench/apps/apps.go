// Package apps is the application chapter: programs that people run, in an image
// of Debian's packages (scripts/build-image apps), each with a load of a stated
// size that comes from inside the same instance. What their tools print is taken
// for what it is: output of an instance, which may be anything.
package apps

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Image is what the applications run in.
const Image = "apps:latest"

// App is one application with its load.
type App struct {
	Name string
	Load string // in words
	Argv []string
	// Read takes nanoseconds of one operation, by name, from its output.
	Read func(stdout []byte) (map[string]float64, error)
}

// All are the applications, in order. Their loads are so many per cent of what Load
// says.
func All(percent int) []App {
	of := func(n int) int { return max(1, n*percent/100) }
	return []App{
		{
			Name: "redis", Load: "redis-benchmark: 5,000 SET and 5,000 GET of 100 bytes, 20 connections over loopback",
			Argv: shell(fmt.Sprintf(`redis-server --save '' --appendonly no --bind 127.0.0.1 --daemonize yes --logfile /dev/null >/dev/null
until redis-cli ping >/dev/null 2>&1; do :; done
redis-benchmark --csv -n %d -c 20 -d 100 -t set,get
redis-cli shutdown nosave`, of(5000))),
			Read: readRedis,
		},
		{
			Name: "nginx", Load: "ab: 1,000 requests for a file of 10 KiB, 8 connections over loopback, without keep-alive",
			Argv: shell(fmt.Sprintf(`mkdir -p /tmp/www && head -c 10240 /dev/zero >/tmp/www/file && chmod -R a+rX /tmp/www
echo 'pid /tmp/nginx.pid; error_log stderr crit; worker_processes 1; events {} http { access_log off; server { listen 127.0.0.1:8000; root /tmp/www; } }' >/tmp/nginx.conf
nginx -c /tmp/nginx.conf
ab -q -n %d -c 8 http://127.0.0.1:8000/file
nginx -c /tmp/nginx.conf -s stop`, max(8, of(1000)))),
			Read: readAB,
		},
		{
			Name: "sqlite", Load: "100,000 rows inserted in one transaction, an index made of them, 10,000 rows looked up by it; one figure for each",
			Argv: shell(fmt.Sprintf(`sqlite3 /tmp/db <<'END'
CREATE TABLE t (n INTEGER, s TEXT);
.timer on
INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < %d) SELECT x * 7919 %% %[1]d, hex(x * 7919) FROM c;
CREATE INDEX i ON t (n);
SELECT sum(length((SELECT s FROM t WHERE n = k.n))) FROM (SELECT n FROM t WHERE n < %d) k;
END`, of(100000), of(10000))),
			Read: readSQLite,
		},
		{
			Name: "python", Load: "a WSGI program of Python's standard library that renders 10 KiB, 200 requests one after the other over loopback",
			Argv: []string{"python3", "-c", fmt.Sprintf(pythonProgram, of(200))},
			Read: readNamed,
		},
		{
			Name: "compile", Load: "gcc -O1 -c of a generated file of 60 functions",
			Argv: []string{"python3", "-c", fmt.Sprintf(compileProgram, of(60))},
			Read: readNamed,
		},
	}
}

const pythonProgram = `
import http.client, threading, time
from wsgiref.simple_server import make_server, WSGIRequestHandler
class Quiet(WSGIRequestHandler):
    def log_message(self, *a): pass
def app(environ, respond):
    body = "".join("<li>%%d %%s</li>" %% (i, environ["PATH_INFO"]) for i in range(500)).encode()
    respond("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(body)))])
    return [body]
s = make_server("127.0.0.1", 0, app, handler_class=Quiet)
threading.Thread(target=s.serve_forever, daemon=True).start()
n = %d
began = time.monotonic_ns()
for i in range(n):
    c = http.client.HTTPConnection("127.0.0.1", s.server_port)
    c.request("GET", "/page")
    assert len(c.getresponse().read()) > 8000
    c.close()
print("request", (time.monotonic_ns() - began) // n)
`

const compileProgram = `
import subprocess, time
with open("/tmp/a.c", "w") as f:
    for i in range(%d):
        f.write("int f%%d(int *a, int n) { int s = %%d; for (int i = 0; i < n; i++) { if (a[i] & %%d) s += a[i] * %%d; else s ^= a[i] >> %%d; } return s; }\n" %% (i, i, i | 1, i + 3, i %% 7 + 1))
began = time.monotonic_ns()
subprocess.run(["gcc", "-O1", "-c", "-o", "/tmp/a.o", "/tmp/a.c"], check=True)
print("file", time.monotonic_ns() - began)
`

func shell(script string) []string { return []string{"sh", "-ec", script} }

var errOutput = errors.New("not the output that was expected")

// readRedis reads redis-benchmark's CSV: name and requests a second come first.
func readRedis(b []byte) (map[string]float64, error) {
	out := map[string]float64{}
	for _, f := range fields(b, ",") {
		if len(f) < 2 {
			continue
		}
		name := strings.ToLower(strings.Trim(f[0], `"`))
		if name != "set" && name != "get" {
			continue
		}
		if err := put(out, name, strings.Trim(f[1], `"`), func(rate float64) float64 { return 1e9 / rate }); err != nil {
			return nil, err
		}
	}
	return want(out, "set", "get")
}

// readAB reads "Time per request: 0.123 [ms] (mean, across all concurrent requests)".
func readAB(b []byte) (map[string]float64, error) {
	out := map[string]float64{}
	for _, f := range fields(b, " ") {
		if len(f) > 6 && f[0] == "Time" && f[2] == "request:" && strings.Contains(strings.Join(f, " "), "across all") {
			if err := put(out, "request", f[3], func(ms float64) float64 { return ms * 1e6 }); err != nil {
				return nil, err
			}
		}
		if len(f) == 3 && f[0] == "Failed" && f[2] != "0" {
			return nil, fmt.Errorf("%w: %s requests failed", errOutput, f[2])
		}
	}
	return want(out, "request")
}

// readSQLite reads "Run Time: real 0.123 user 0.1 sys 0.0", once for each of its
// statements.
func readSQLite(b []byte) (map[string]float64, error) {
	out, names := map[string]float64{}, []string{"insert", "index", "select"}
	n := 0
	for _, f := range fields(b, " ") {
		if len(f) > 3 && f[0] == "Run" && f[2] == "real" && n < len(names) {
			// It has milliseconds: one that took less is one that took a half.
			if err := put(out, names[n], f[3], func(s float64) float64 { return max(s, 0.0005) * 1e9 }); err != nil {
				return nil, err
			}
			n++
		}
	}
	return want(out, names...)
}

// readNamed reads lines of a name and nanoseconds.
func readNamed(b []byte) (map[string]float64, error) {
	out := map[string]float64{}
	for _, f := range fields(b, " ") {
		if len(f) == 2 && (f[0] == "request" || f[0] == "file") {
			if err := put(out, f[0], f[1], func(ns float64) float64 { return ns }); err != nil {
				return nil, err
			}
		}
	}
	if len(out) == 0 {
		return nil, errOutput
	}
	return out, nil
}

func fields(b []byte, separator string) (out [][]string) {
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		if separator == " " {
			out = append(out, strings.Fields(s.Text()))
		} else {
			out = append(out, strings.Split(s.Text(), separator))
		}
	}
	return out
}

// put notes a figure that is one.
func put(out map[string]float64, name, text string, of func(float64) float64) error {
	v, err := strconv.ParseFloat(text, 64)
	if ns := of(v); err != nil || !(ns > 0 && ns < 1e15) {
		return fmt.Errorf("%w: %s is %.40q", errOutput, name, text)
	}
	out[name] = of(v)
	return nil
}

func want(out map[string]float64, names ...string) (map[string]float64, error) {
	for _, n := range names {
		if _, ok := out[n]; !ok {
			return nil, fmt.Errorf("%w: no figure called %s", errOutput, n)
		}
	}
	return out, nil
}
