package gdbstub

import "strings"

// verbose is the v packets: vCont and the question for it.
func (s *session) verbose(p string) (reply string, wait bool) {
	switch {
	case p == "vCont?":
		return "vCont;c;C;s;S", false
	case strings.HasPrefix(p, "vCont;"):
		run, step, ok := s.actions(p[len("vCont;"):])
		if !ok {
			return "E16", false
		}
		return s.resume(run, step)
	}
	return "", false
}

// actions reads "ACTION[:THREAD];...": the first one that names a thread, or
// all, is that thread's.
func (s *session) actions(text string) (run, step []bool, ok bool) {
	n := s.t.CPUs()
	run, step = make([]bool, n), make([]bool, n)
	set := make([]bool, n)
	for a := range strings.SplitSeq(text, ";") {
		what, id, named := strings.Cut(a, ":")
		if what == "" || !strings.ContainsRune("cCsS", rune(what[0])) {
			return nil, nil, false
		}
		stepping := what[0] == 's' || what[0] == 'S' // a signal means nothing to a CPU
		first, last := 0, n
		if named && id != "-1" {
			cpu, known := s.thread(id)
			if !known {
				return nil, nil, false
			}
			first, last = cpu, cpu+1
		}
		for i := first; i < last; i++ {
			if !set[i] {
				set[i], run[i], step[i] = true, true, stepping
			}
		}
	}
	return run, step, true
}

// resumeOne is c, s, C and S: all run, and the current one may step.
func (s *session) resumeOne(how byte) (reply string, wait bool) {
	n := s.t.CPUs()
	run, step := make([]bool, n), make([]bool, n)
	if how == 's' || how == 'S' {
		run[s.cpu], step[s.cpu] = true, true
		return s.resume(run, step)
	}
	for i := range run {
		run[i] = true
	}
	return s.resume(run, step)
}

func (s *session) resume(run, step []bool) (reply string, wait bool) {
	if err := s.t.Resume(run, step); err != nil {
		return s.failure(err), false
	}
	s.running = true
	return "", true
}
