// Command hvbench is what hvctl bench run runs inside an instance. It prints
// JSON lines; package probe says what they mean.
//
//	hvbench probes [-chapters A,B] [-counts P=N,...] [-batches N] [-time D] [-step] [-slow PERCENT] [-dir DIR]
//	hvbench list
//	hvbench see [DIR]        what the program sees of its world
//	hvbench reach DIR MARK   what it gets at of the machine, and whether it sees that process
//	hvbench say BYTES        the same bytes each time
//	hvbench echo             what it is told
//	hvbench exit CODE        ends with it
//	hvbench die SIGNAL       ends by it, or with 99 when it survives that
//	hvbench catch            says that it is ready, and ends with 3 at SIGTERM
//	hvbench idle             says that it is ready, and waits for the end of its input
//	hvbench beat             counts every 2 ms, until SIGTERM
//
// These say that they are ready, begin when they are told a byte, and when they
// are done wait for the end of their input, so that there is time to look at them:
//
//	hvbench spin TIME        computes for so long
//	hvbench latency TIME     a small operation every 2 ms
//	hvbench storm KIND TIME  cpu, memory, fork or sync, as fast as it goes
//	hvbench eat MIB          touches memory
//	hvbench crowd N          makes processes
//	hvbench disk read|write SIZE TIME PATH   past the page cache
//	hvbench drain TIME PORT  receives from the gateway
//	hvbench pour PORT        sends to it, until that hangs up
//
// disk and drain say that they are ready once more when they begin to count.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/probe"
	"golang.org/x/sys/unix"
)

// The first thread is the one that a promise of processor time is kept to.
func init() { runtime.LockOSThread() }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hvbench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("no command: probes, list, see, say, echo, exit, die, catch, idle, beat, spin, latency, storm, eat or crowd")
	}
	arg := ""
	if len(args) > 1 {
		arg = args[1]
	}
	out := json.NewEncoder(os.Stdout)
	switch args[0] {
	case "probes":
		return probes(args[1:])
	case "list":
		for _, p := range probe.All() {
			fmt.Printf("%-14s %-6s %s\n", p.Name, p.Chapter, p.Follows)
		}
		return nil
	case "see":
		dir := "/tmp"
		if arg != "" && arg != planted {
			dir = arg
		}
		return out.Encode(probe.See(dir, args[len(args)-1] == planted))
	case "reach":
		if len(args) != 3 {
			return errors.New("reach: want DIR MARK")
		}
		return out.Encode(probe.Reach(args[1], args[2]))
	case "echo":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "catch", "idle":
		return wait(args[0] == "catch")
	case "beat":
		quit := make(chan struct{})
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM)
		go func() { <-c; close(quit) }()
		return probe.Beat(os.Stdout, quit)
	case "say", "exit", "die", "eat", "crowd":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		return counted(args[0], n, out)
	case "spin", "latency":
		d, err := time.ParseDuration(arg)
		if err != nil {
			return err
		}
		if err := toldToBegin(); err != nil {
			return err
		}
		if args[0] == "spin" {
			return linger(out.Encode(probe.Spin(d)))
		}
		return linger(out.Encode(probe.Latency(d)))
	case "disk", "drain", "pour":
		if err := toldToBegin(); err != nil {
			return err
		}
		return limited(args, out)
	case "storm":
		if len(args) != 3 {
			return errors.New("storm: want KIND TIME")
		}
		d, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		if err := toldToBegin(); err != nil {
			return err
		}
		w, err := probe.Storm(arg, "/tmp", d)
		return linger(errors.Join(err, out.Encode(w)))
	}
	return fmt.Errorf("%s: no such command", args[0])
}

// limited are the commands that are held to a rate from outside.
func limited(args []string, out *json.Encoder) error {
	counting := func() error { return out.Encode(probe.Line{Ready: "count"}) }
	if args[0] == "disk" {
		if len(args) != 5 {
			return errors.New("disk: want read|write SIZE TIME PATH")
		}
		size, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		d, err := time.ParseDuration(args[3])
		if err != nil {
			return err
		}
		w, err := probe.Disk(args[1] == "write", size, args[4], d, counting)
		if err != nil {
			return err
		}
		return linger(out.Encode(w))
	}
	if want := map[string]int{"drain": 3, "pour": 2}[args[0]]; len(args) != want {
		return fmt.Errorf("%s: want %d arguments", args[0], want-1)
	}
	gateway, err := probe.Gateway()
	if err != nil {
		return err
	}
	address := net.JoinHostPort(gateway.String(), args[len(args)-1])
	if args[0] == "pour" {
		return probe.Pour(address)
	}
	d, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	w, err := probe.Drain(address, d, counting)
	if err != nil {
		return err
	}
	return linger(out.Encode(w))
}

// planted asks see for a wrong digest.
const planted = "-planted"

// counted are the commands that take a number.
func counted(command string, n int, out *json.Encoder) error {
	switch command {
	case "say":
		return probe.Say(os.Stdout, n)
	case "exit":
		os.Exit(n)
	case "die":
		if err := probe.Die(n); err != nil {
			return err
		}
		os.Exit(probe.Survived)
	}
	if err := toldToBegin(); err != nil {
		return err
	}
	if command == "crowd" {
		return linger(out.Encode(probe.Crowd(n)))
	}
	return linger(probe.Eat(n, func(w probe.Work) error { return out.Encode(w) }))
}

// linger waits for the end of the input when there is no error.
func linger(err error) error {
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	return err
}

// toldToBegin says that it is ready, and waits for a byte.
func toldToBegin() error {
	fmt.Println(`{"ready":"begin"}`)
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the word to begin: %w", err)
	}
	return nil
}

// wait says that it is ready.
func wait(catch bool) error {
	c := make(chan os.Signal, 1)
	if catch {
		signal.Notify(c, unix.SIGTERM)
	}
	fmt.Println(`{"ready":"wait"}`)
	if catch {
		<-c
		fmt.Println(`{"ready":"caught"}`)
		os.Exit(3)
	}
	return linger(nil)
}

func probes(args []string) error {
	f := flag.NewFlagSet("probes", flag.ContinueOnError)
	chapters := f.String("chapters", "life,micro,mem,io,net,cpu", "run the probes of these")
	counts := f.String("counts", "", "operations in a batch")
	o := probe.Options{}
	f.IntVar(&o.Batches, "batches", 5, "batches of each probe")
	f.DurationVar(&o.BatchTime, "time", 20*time.Millisecond, "what a batch takes whose operations are not given")
	f.StringVar(&o.Dir, "dir", "/tmp", "for files")
	f.IntVar(&o.Slow, "slow", 0, "do this per cent more than is counted")
	step := f.Bool("step", false, "read a byte before each probe")
	if err := f.Parse(args); err != nil {
		return err
	}
	o.Counts = map[string]int{}
	for kv := range strings.SplitSeq(*counts, ",") {
		k, v, ok := strings.Cut(kv, "=")
		n, err := strconv.Atoi(v)
		if !ok {
			continue
		}
		if err != nil {
			return fmt.Errorf("-counts %s: %w", kv, err)
		}
		o.Counts[k] = n
	}
	if *step {
		o.Step = os.Stdin
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	return probe.Run(os.Stdout, probe.Select(strings.Split(*chapters, ",")), o)
}
