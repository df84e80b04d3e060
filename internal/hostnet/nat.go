package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// natTable is the table of a bridge: family ip, named like the bridge.
func natTable(bridge string) *nftables.Table {
	return &nftables.Table{Name: bridge, Family: nftables.TableFamilyIPv4}
}

// hasNAT says whether the bridge's table exists.
func hasNAT(bridge string) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, natErr(err)
	}
	ts, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, natErr(err)
	}
	for _, t := range ts {
		if t.Name == bridge {
			return true, nil
		}
	}
	return false, nil
}

// setNAT writes the bridge's table anew in one transaction:
//
//	chain postrouting: what comes from the network and leaves by another
//	interface takes that interface's address.
//	chain forward: nobody sends from the bridge with a foreign source address,
//	and nothing new comes to the bridge from other interfaces; the instances
//	are reached by published ports only.
func setNAT(bridge string, subnet netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return natErr(err)
	}
	t := natTable(bridge)
	c.AddTable(t) // so that the removal finds one
	c.DelTable(t)
	c.AddTable(t)
	accept := nftables.ChainPolicyAccept
	post := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Policy: &accept,
	})
	fwd := c.AddChain(&nftables.Chain{
		Name: "forward", Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	rule := func(ch *nftables.Chain, es ...[]expr.Any) {
		var all []expr.Any
		for _, e := range es {
			all = append(all, e...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: all})
	}
	verdict := func(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }
	in, notIn := ifIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, bridge), ifIs(expr.MetaKeyIIFNAME, expr.CmpOpNeq, bridge)
	out, notOut := ifIs(expr.MetaKeyOIFNAME, expr.CmpOpEq, bridge), ifIs(expr.MetaKeyOIFNAME, expr.CmpOpNeq, bridge)

	rule(post, notOut, source(expr.CmpOpEq, subnet), []expr.Any{&expr.Masq{}})
	rule(fwd, in, source(expr.CmpOpNeq, subnet), verdict(expr.VerdictDrop))
	rule(fwd, in, verdict(expr.VerdictAccept))
	rule(fwd, out, established(), verdict(expr.VerdictAccept))
	rule(fwd, out, notIn, verdict(expr.VerdictDrop))
	if err := c.Flush(); err != nil {
		return natErr(err)
	}
	return nil
}

// delNAT removes the bridge's tables; there need not be any.
func delNAT(bridge string) error {
	var errs []error
	for _, t := range []*nftables.Table{natTable(bridge), guardTable(bridge)} {
		c, err := nftables.New()
		if err != nil {
			return natErr(err)
		}
		c.AddTable(t)
		c.DelTable(t)
		err = c.Flush()
		if t.Family == nftables.TableFamilyNetdev && errors.Is(err, unix.EAFNOSUPPORT) {
			err = nil // a kernel without it has no such table
		}
		if err != nil {
			errs = append(errs, natErr(err))
		}
	}
	return errors.Join(errs...)
}

func natErr(err error) error {
	return fmt.Errorf("%w: %w; load the kernel modules nf_tables, nft_masq and nft_ct, or look at `hvctl doctor`", ErrNAT, wrap("nftables", err))
}

// ifIs compares the name of the incoming or outgoing interface.
func ifIs(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	var b [16]byte // IFNAMSIZ, padded with zeroes
	copy(b[:], name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: b[:]}}
}

// source compares the packet's source address with a network.
func source(op expr.CmpOp, p netip.Prefix) []expr.Any {
	const offset, size = 12, 4 // of the source address in an IPv4 header
	a := p.Masked().Addr().As4()
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: 1, Data: a[:]},
	}
}

// established matches packets of connections the other side began.
func established() []expr.Any {
	mask := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	zero := make([]byte, 4)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero},
	}
}
