package e2e

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// soakGuest keeps a hash chain in memory, a log on disk that is synced line by
// line, and a TCP connection, and swears to all of it when asked.
//
//go:embed testdata/soak.py
var soakGuest string

// soakTrips is how often the guest goes there and back; HVCTL_SOAK says another
// number (docs/results/long-runs.txt).
const soakTrips = 1

// soakDowntime is what each hop aims at: what a busy machine's own scheduling, which the
// estimate of the blackout has in it, leaves room for.
const soakDowntime = "1s"

// TestAGuestLosesNothingOnManyWays moves one guest there and back between two
// network namespaces, over a link with a rate and a delay.
func TestAGuestLosesNothingOnManyWays(t *testing.T) {
	h := newHost(t)
	trips := soakTrips
	if s := os.Getenv("HVCTL_SOAK"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("HVCTL_SOAK=%q: want a number of trips", s)
		}
		trips = n
	}
	sides := h.twoHosts("rate 200mbit delay 1ms")
	disk := filepath.Join(h.root, ".disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 256<<20); err != nil {
		t.Fatal(err)
	}
	here := sides[0]
	here.ok("run", "-d", "--name", "hop0", "--kernel", fast, "--memory", "256M", "--network", "none", "--disk", "path="+disk, "python", "python3", "-c", soakGuest)
	count := func(side *host, name string) int {
		r := side.hvctl("exec", name, "cat", "/tmp/n")
		n, err := strconv.Atoi(strings.TrimSpace(r.out))
		if err != nil {
			return -1
		}
		return n
	}
	eventually(t, "the guest has begun", func() bool { return count(here.host, "hop0") > 5 })
	allow := []string{"--allow", strings.TrimSpace(h.ok("migrate", "identity"))}
	var blackouts, totals []time.Duration
	for hop := range 2 * trips {
		from, to := fmt.Sprint("hop", hop), fmt.Sprint("hop", hop+1)
		there := sides[(hop+1)%2]
		at := there.address + ":7443"
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
		receive := there.command(ctx, append([]string{"migrate", "receive", "--listen", at, "--name", to}, allow...)...)
		if err := receive.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "somebody listens at "+at, func() bool {
			return here.hvctl(append([]string{"migrate", "plan", from, "--to", at}, allow...)...).code == 0
		})
		before := count(here.host, from)
		out := here.ok(append([]string{"migrate", "send", from, "--to", at, "--on-timeout", "throttle", "--downtime", soakDowntime, "--json"}, allow...)...)
		if err := receive.Wait(); err != nil {
			t.Fatalf("hop %d: receive: %v\n%s", hop, err, h.consoles())
		}
		cancel()
		var report struct {
			Total    time.Duration `json:"total_ns"`
			Blackout struct {
				Total time.Duration `json:"total_ns"`
			}
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatal(err)
		}
		blackouts, totals = append(blackouts, report.Blackout.Total), append(totals, report.Total)
		here.ok("rm", from)
		here = there
		eventually(t, "the guest goes on", func() bool { return count(here.host, to) > before })
	}
	last := fmt.Sprint("hop", 2*trips)
	here.ok("exec", last, "touch", "/tmp/check")
	var said string
	eventually(t, "the guest has looked at all it has", func() bool {
		said = strings.TrimSpace(here.hvctl("exec", last, "cat", "/tmp/result").out)
		return said != ""
	})
	if !strings.HasPrefix(said, "intact ") {
		t.Errorf("after %d hops: %s\n%s", 2*trips, said, h.consoles())
	}
	slices.Sort(blackouts)
	slices.Sort(totals)
	t.Logf("%d hops, %s; blackouts from %v, median %v, to %v; totals from %v, median %v, to %v", 2*trips, said,
		blackouts[0], blackouts[len(blackouts)/2], blackouts[len(blackouts)-1], totals[0], totals[len(totals)/2], totals[len(totals)-1])
	here.ok("rm", "-f", last)
}

// side is one of two hosts that share state and store, in a network of its own.
type side struct {
	*host
	address string
}

// twoHosts makes two network namespaces with a veth pair between them, both of
// whose ends have a queueing discipline netem with the options given.
func (h *host) twoHosts(netem string) (sides [2]*side) {
	h.t.Helper()
	ip := func(args ...string) {
		h.t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			h.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	if _, err := os.Stat("/run/netns"); err != nil { // ip mounts a tmpfs there
		h.t.Cleanup(func() {
			if out, err := exec.Command("umount", "/run/netns").CombinedOutput(); err != nil {
				h.t.Logf("umount /run/netns: %v: %s", err, out)
			}
			_ = os.Remove("/run/netns")
		})
	}
	names := [2]string{filepath.Base(h.root) + "a", filepath.Base(h.root) + "b"}
	for _, n := range names {
		ip("ip", "netns", "add", n)
		h.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n).Run() })
	}
	ip("ip", "link", "add", "hv0", "netns", names[0], "type", "veth", "peer", "name", "hv0", "netns", names[1])
	for i, n := range names {
		address := fmt.Sprintf("10.199.8.%d", i+1)
		ip("ip", "-n", n, "addr", "add", address+"/24", "dev", "hv0")
		ip("ip", "-n", n, "link", "set", "hv0", "up")
		ip("ip", "-n", n, "link", "set", "lo", "up")
		ip(append([]string{"tc", "-n", n, "qdisc", "add", "dev", "hv0", "root", "netem"}, strings.Fields(netem)...)...)
		in := *h
		in.through = []string{"nsenter", "--net=/run/netns/" + n}
		sides[i] = &side{&in, address}
	}
	return sides
}
