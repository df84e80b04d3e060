package plan

// fresh is what becomes of resources that the rules call part of the guest's memory, and of others, of
// a workload that is started afresh at its destination.
var fresh = map[Kind]struct {
	action Action
	reason string
}{
	RAM:     {Drop, "started afresh: what is in memory is lost"},
	Tmpfs:   {Drop, "empty when it is started afresh"},
	TCP:     {Drop, "connections end"},
	Env:     {Copy, "part of the configuration; whatever secrets it has go along"},
	Network: {Rebind, "the network of that name there, with a new address"},
	Stream:  {Drop, "attached clients are disconnected"},
	Limits:  {Rebind, "the same limits there"},
}

// Fresh turns a plan for a workload that goes on into one for a workload that is started
// afresh. Refusals and what was asked for stay.
func (p *Plan) Fresh() {
	for i, r := range p.Rows {
		if f, ok := fresh[r.Kind]; ok && r.Action != Refuse && r.Reason != askedFor {
			p.Rows[i].Action, p.Rows[i].Reason = f.action, f.reason
		}
	}
}
