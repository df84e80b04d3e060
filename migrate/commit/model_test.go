package commit

import (
	"fmt"
	"slices"
	"strings"
)

// The model: both hosts, their disks, the network and the operator, as small
// as it can be while every loss, repetition, delay, reordering, crash and
// failed write of the real thing has its counterpart. Two sessions follow each
// other, so that messages of the first can disturb the second.

const sessions = 2

// message bits: a message that was sent once may arrive never, late, often.
var messages = []Event{"DATA", GotReady, GotGo, GotQuery, GotRunning, GotRevoked, GotAbort, GotDrained, GotLost}

type record uint8 // of a host's disk

const (
	none record = iota
	intent
	isHanded
	isKept
	isOwner
	isRevoked
)

type guest uint8

const (
	noGuest guest = iota
	stopped       // in memory, paused
	running
)

// side is one side of one session. do is the number of actions of the row At
// that are done; idle sides have at == -1.
type side struct {
	code  uint8 // of the state
	at    int8  // row being executed
	do    int8
	rec   record
	guest guest
}

// world is everything. It is comparable, so it can be the key of a map.
type world struct {
	src      side
	session  int8 // of the source
	begun    int8 // the newest session that was begun
	dst      [sessions]side
	srcUp    bool
	dstUp    bool
	dstDead  bool // and never comes back: the operator has seen to that
	crashed  bool // some host crashed at some time
	lock     int8 // holder: -1 nobody, -2 source, or the destination's session
	sent     [sessions]uint16
	lacks    [sessions]bool // destination: pages are at the source only
	recOf    int8           // session of the source's record
	resumed  [sessions]bool // destination started the guest of that session
	ranSince [sessions]bool // the source ran on after pausing for that session
	stale    bool           // a guest was resumed from memory that had run on elsewhere
}

const bySource = -2

// codes are the states as numbers, which are faster to hash than their names.
var codes = []State{Copying, Paused, Intending, Committed, InDoubt, Handed, Kept, Receiving, Ready, Taking, Resuming, Running, Revoked, Stuck, Gone, Revoking, Serving, Ended}

func code(s State) uint8 { return uint8(slices.Index(codes, s)) }

func (s side) state() State { return codes[s.code] }

func start() world {
	w := world{srcUp: true, dstUp: true, lock: bySource}
	w.src = side{code: code(Copying), at: -1, guest: running}
	for k := range w.dst {
		w.dst[k] = side{code: code(Receiving), at: -1, guest: stopped}
	}
	return w
}

func bit(e Event) uint16 { return 1 << slices.Index(messages, e) }

// model explores the worlds that the two tables can reach.
type model struct {
	src, dst Table
	// loose takes the locks away: two hosts whose disks know nothing of each
	// other. Then only messages and records stand between us and two runners.
	loose bool
	// later leaves pages at the source when the guest is handed over.
	later  bool
	ids    map[world]int32
	worlds []world
	how    []step     // how each world was reached first
	edges  [][2]int32 // but for those that nobody may wait for: crashes
	queue  []int32
	at     int32 // the world being continued
	bad    string
}

type step struct {
	from int32
	what string
}

// reach adds a world that follows from the one being continued. What begins
// with "!" is a step that nobody may count on: a crash, an operator's guess.
func (m *model) reach(to world, what string) {
	id, ok := m.ids[to]
	if !ok {
		id = int32(len(m.worlds))
		m.ids[to] = id
		m.worlds, m.how = append(m.worlds, to), append(m.how, step{m.at, what})
		m.queue = append(m.queue, id)
		if v := m.violation(&to); v != "" && m.bad == "" {
			m.bad = v + "\n" + m.trace(id)
		}
	}
	if !strings.HasPrefix(what, "!") {
		m.edges = append(m.edges, [2]int32{m.at, id})
	}
}

func (m *model) trace(id int32) string {
	var lines []string
	for ; id != 0; id = m.how[id].from {
		lines = append(lines, "  "+m.how[id].what)
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

// violation returns which promise w breaks.
func (m *model) violation(w *world) string {
	runners, copies := 0, 0
	count := func(g guest, holds, whole bool) string {
		if g == running {
			runners++
			if !holds && !m.loose {
				return "a guest runs without its locks"
			}
		}
		if g != noGuest && whole {
			copies++
		}
		return ""
	}
	if v := count(w.src.guest, w.lock == bySource, true); v != "" {
		return v
	}
	for k, d := range w.dst {
		// What has not been loaded is no copy of anything yet.
		if d.state() != Receiving {
			if v := count(d.guest, w.lock == int8(k), !w.lacks[k]); v != "" {
				return v
			}
		}
	}
	switch {
	case w.stale:
		return "a guest runs on from memory older than what it ran already"
	case runners > 1:
		return "two runners"
	case copies == 0 && !w.crashed:
		return "the last copy is gone and no host crashed"
	}
	return ""
}

// settled says that nobody waits any more: one runner, or the guest is gone
// with its host.
func settled(w *world) bool {
	if w.src.guest == running {
		return true
	}
	for k, d := range w.dst {
		if d.guest == running && d.state() == Running && !w.lacks[k] {
			return true
		}
	}
	return w.srcUp && w.src.at < 0 && w.src.state() == Handed && w.crashed
}

// explore runs until all is seen, a promise is broken, or limit worlds exist.
func (m *model) explore(limit int) (worlds int) {
	m.ids, m.worlds, m.how = map[world]int32{start(): 0}, []world{start()}, []step{{}}
	m.queue = []int32{0}
	for len(m.queue) > 0 && m.bad == "" && len(m.worlds) < limit {
		m.at, m.queue = m.queue[len(m.queue)-1], m.queue[:len(m.queue)-1]
		w := m.worlds[m.at]
		m.source(w)
		for k := range w.dst {
			m.destination(w, k)
		}
		m.hosts(w)
	}
	if m.bad == "" {
		m.bad = m.hopeless()
	}
	return len(m.worlds)
}

// hopeless returns a world from which no settled world can be reached: it goes
// backwards from all that are settled and sees what is left.
func (m *model) hopeless() string {
	first := make([]int32, len(m.worlds)+1) // where the edges into each world begin
	for _, e := range m.edges {
		first[e[1]+1]++
	}
	for i := range m.worlds {
		first[i+1] += first[i]
	}
	before, next := make([]int32, len(m.edges)), slices.Clone(first)
	for _, e := range m.edges {
		before[next[e[1]]] = e[0]
		next[e[1]]++
	}
	good := make([]bool, len(m.worlds))
	var queue []int32
	for i := range m.worlds {
		if settled(&m.worlds[i]) {
			good[i] = true
			queue = append(queue, int32(i))
		}
	}
	for len(queue) > 0 {
		id := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, b := range before[first[id]:first[id+1]] {
			if !good[b] {
				good[b] = true
				queue = append(queue, b)
			}
		}
	}
	if i := slices.Index(good, false); i >= 0 {
		w := m.worlds[i]
		return fmt.Sprintf("no way to an end from source %s, destinations %s and %s\n%s",
			w.src.state(), w.dst[0].state(), w.dst[1].state(), m.trace(int32(i)))
	}
	return ""
}

// fire begins the row for e, if there is one. who names the side in traces.
func (m *model) fire(w world, t Table, get func(*world) *side, e Event, who string) {
	s := get(&w)
	for i, r := range t {
		if r.From != s.state() || r.On != e {
			continue
		}
		s.code, s.at, s.do = code(r.To), int8(i), 0
		if len(r.Do) == 0 {
			s.at = -1
		}
		m.reach(w, who+": "+string(e)+" -> "+string(r.To))
		return
	}
}

// finish ends an action, well or not, and with it perhaps the row.
func (m *model) finish(w *world, t Table, s *side, ok bool, what string) {
	r := t[s.at]
	s.do++
	if ok && int(s.do) < len(r.Do) {
		m.reach(*w, what)
		return
	}
	s.at, s.do = -1, 0
	if !r.Follow {
		m.reach(*w, what)
		return
	}
	e := Done
	if !ok {
		e = Failed
	}
	// What follows begins at once: it is one step of the same goroutine.
	for i, next := range t {
		if next.From == s.state() && next.On == e {
			s.code = code(next.To)
			if len(next.Do) > 0 {
				s.at = int8(i)
			}
			break
		}
	}
	m.reach(*w, what+", "+string(e))
}

// write performs a record's write: done, failed, or failed and done all the
// same.
func (m *model) write(w world, t Table, get func(*world) *side, r record, mayFail bool, what string) {
	good := w
	set := func(w *world) {
		get(w).rec = r
		if get(w) == &w.src {
			w.recOf = w.session
		}
	}
	set(&good)
	m.finish(&good, t, get(&good), true, what)
	half, lost := w, w
	set(&half)
	m.finish(&half, t, get(&half), !mayFail, what+" (reported as failed, but done)")
	m.finish(&lost, t, get(&lost), !mayFail, what+" (failed)")
}

// source makes all steps of the source.
func (m *model) source(w world) {
	if !w.srcUp {
		return
	}
	get := func(w *world) *side { return &w.src }
	k := w.session
	if w.src.at >= 0 {
		m.sourceAction(w, m.src[w.src.at].Do[w.src.do])
		return
	}
	for _, e := range []Event{Switch, Fail, Silence, Retry} {
		m.fire(w, m.src, get, e, "source")
	}
	for _, e := range []Event{GotReady, GotRunning, GotRevoked, GotDrained, GotLost} {
		if w.sent[k]&bit(e) == 0 {
			continue
		}
		if e == GotRunning && m.later && w.src.guest != noGuest { // it has the memory to serve
			e = RunsLacking
		}
		m.fire(w, m.src, get, e, "source")
	}
	if w.dstDead { // only then may an operator say so
		m.fire(w, m.src, get, KeepSource, "operator")
		if w.src.state() == Serving {
			m.fire(w, m.src, get, KeepDest, "operator")
		}
	}
	if w.dst[k].guest == running {
		e := KeepDest
		if m.later && w.src.guest != noGuest && w.src.state() != Serving { // that it runs is not that it has all
			e = RunsLacking
		}
		if e == RunsLacking || !w.lacks[k] {
			m.fire(w, m.src, get, e, "! operator")
		}
	}
	if w.src.state() == Kept && w.src.guest == running && w.begun+1 < sessions {
		w.begun++
		w.session = w.begun
		w.src.code = code(Copying)
		m.reach(w, "source: begins the second session")
	}
}

func (m *model) sourceAction(w world, a Action) {
	k, what := w.session, "source: "+string(a)
	s := &w.src
	get := func(w *world) *side { return &w.src }
	switch a {
	case WriteIntent:
		m.write(w, m.src, get, intent, true, what)
		return
	case WriteHanded:
		m.write(w, m.src, get, isHanded, false, what)
		return
	case WriteKept:
		m.write(w, m.src, get, isKept, false, what)
		return
	case SendGo:
		w.sent[k] |= bit(GotGo)
	case SendQuery:
		w.sent[k] |= bit(GotQuery)
	case SendAbort:
		w.sent[k] |= bit(GotAbort)
	case PauseGuest:
		s.guest = stopped
	case ReleaseLocks:
		w.lock = -1
		w.sent[k] |= bit("DATA")
	case TakeLocks:
		if w.lock != -1 && w.lock != bySource && !m.loose {
			return // waits
		}
		w.lock = bySource
	case ResumeGuest: // without a guest it is a start by the machine's policy
		// An operator who fences a destination accepts the loss of what it ran.
		w.stale = s.guest == stopped && w.resumed[k] && !w.dstDead
		s.guest = running
		w.ranSince[k] = true
	case DropGuest:
		s.guest = noGuest
	default:
		panic("source: " + a)
	}
	m.finish(&w, m.src, s, true, what)
}

// destination makes all steps of the destination of session k.
func (m *model) destination(w world, k int) {
	if !w.dstUp {
		return
	}
	d := w.dst[k]
	get := func(w *world) *side { return &w.dst[k] }
	who := fmt.Sprintf("destination %d", k)
	if d.at >= 0 {
		m.destAction(w, k, m.dst[d.at].Do[d.do], who)
		return
	}
	for _, e := range []Event{Fail, Expired, Retry} {
		m.fire(w, m.dst, get, e, who)
	}
	if w.sent[k]&bit("DATA") != 0 {
		l := w
		l.lacks[k] = m.later
		m.fire(l, m.dst, get, Loaded, who)
	}
	m.pages(w, k, get, who)
	for _, e := range []Event{GotGo, GotQuery, GotAbort} {
		if w.sent[k]&bit(e) != 0 {
			m.fire(w, m.dst, get, e, who)
		}
	}
}

// pages is what post-copy adds: they come from the source's memory, or cannot come
// any more.
func (m *model) pages(w world, k int, get func(*world) *side, who string) {
	d := w.dst[k]
	if !m.later || d.guest == noGuest {
		// Who asks to go on serving is told that the guest is no more.
		if m.later && (d.state() == Running || d.state() == Ended) && w.sent[k]&bit(GotLost) == 0 {
			w.sent[k] |= bit(GotLost)
			m.reach(w, who+": send REFUSE lost")
		}
		return
	}
	serves := w.srcUp && w.session == int8(k) && w.src.guest == stopped
	switch {
	case !w.lacks[k]:
		m.fire(w, m.dst, get, Drained, who)
	case serves:
		w.lacks[k] = false
		m.reach(w, who+": every page has come")
	default:
		m.fire(w, m.dst, get, SourceGone, who)
	}
}

func (m *model) destAction(w world, k int, a Action, who string) {
	before, what := w, who+": "+string(a)
	s := &w.dst[k]
	get := func(w *world) *side { return &w.dst[k] }
	mayFail := false
	switch a {
	case WriteOwner:
		m.write(w, m.dst, get, isOwner, true, what)
		return
	case WriteRevoked:
		m.write(w, m.dst, get, isRevoked, true, what)
		return
	case SendReady:
		w.sent[k] |= bit(GotReady)
	case SendRunning:
		w.sent[k] |= bit(GotRunning)
	case SendRevoked:
		w.sent[k] |= bit(GotRevoked)
	case SendDrained:
		w.sent[k] |= bit(GotDrained)
	case SendLost:
		w.sent[k] |= bit(GotLost)
	case TakeLocks:
		if mayFail = true; w.lock != -1 && w.lock != int8(k) && !m.loose {
			m.finish(&w, m.dst, s, false, what+" (held)")
			return
		}
		w.lock = int8(k)
	case ReleaseLocks:
		if w.lock == int8(k) {
			w.lock = -1
		}
	case ResumeGuest:
		mayFail = true
		s.guest = running
		w.resumed[k], w.stale = true, w.ranSince[k]
	case DropGuest:
		s.guest = noGuest
	default:
		panic("destination: " + a)
	}
	m.finish(&w, m.dst, s, true, what)
	if mayFail {
		w = before
		m.finish(&w, m.dst, &w.dst[k], false, what+" (failed)")
	}
}

// hosts crashes and restarts them, and lets the destination die for good.
func (m *model) hosts(from world) {
	w := from
	if w.srcUp {
		w.srcUp, w.crashed = false, true
		w.src = side{rec: w.src.rec, at: -1, code: code(Kept)}
		if w.lock == bySource {
			w.lock = -1
		}
		m.reach(w, "! source crashes")
	} else {
		m.restartSource(from)
	}
	w = from
	if w.dstUp {
		w.dstUp, w.crashed = false, true
		if w.lock >= 0 {
			w.lock = -1
		}
		for k := range w.dst {
			w.dst[k] = side{rec: w.dst[k].rec, at: -1, code: code(Gone)}
			w.lacks[k] = false
		}
		m.reach(w, "! destination crashes")
		return
	}
	if !w.dstDead {
		m.restartDest(from)
		w.dstDead = true
		m.reach(w, "! destination is taken away for good")
	}
}

// restartSource goes by the record; without one against it the machine starts
// afresh by its policy, which takes the locks.
func (m *model) restartSource(from world) {
	w := from
	w.srcUp = true
	switch {
	case w.src.rec == intent:
		w.session, w.src.code = w.recOf, code(InDoubt)
	case w.src.rec == isHanded:
		w.src.code = code(Handed)
	case w.lock != -1 && !m.loose:
		return
	default:
		w.src.guest, w.lock = running, bySource
		for k := range w.begun + 1 {
			w.ranSince[k] = true
		}
	}
	m.reach(w, "source restarts: "+string(w.src.state()))
}

func (m *model) restartDest(from world) {
	w := from
	w.dstUp = true
	for k := range w.dst {
		switch w.dst[k].rec {
		case isOwner:
			w.dst[k].code = code(Running)
		case isRevoked:
			w.dst[k].code = code(Revoked)
		default: // nothing was decided
		}
	}
	m.reach(w, "destination restarts")
	for k := range w.dst {
		if w.dst[k].rec == isOwner && (w.lock == -1 || m.loose) { // and its policy starts the machine afresh
			p := w
			p.dst[k].guest, p.lock = running, int8(k)
			m.reach(p, fmt.Sprintf("destination restarts, and starts the machine of session %d afresh", k))
		}
	}
}
