package kvm

// pitConfig is struct kvm_pit_config.
type pitConfig struct {
	Flags uint32
	Pad   [15]uint32
}

// PITSpeakerDummy is KVM_PIT_SPEAKER_DUMMY: KVM answers port 0x61 itself.
const PITSpeakerDummy = 1

// PITChannelState is struct kvm_pit_channel_state.
type PITChannelState struct {
	Count         uint32 // can be 65536
	LatchedCount  uint16
	CountLatched  uint8
	StatusLatched uint8
	Status        uint8
	ReadState     uint8
	WriteState    uint8
	WriteLatch    uint8
	RWMode        uint8
	Mode          uint8
	BCD           uint8
	Gate          uint8
	CountLoadTime int64 // host CLOCK_MONOTONIC in ns; KVM ignores it on set
}

// PITState2 is struct kvm_pit_state2.
type PITState2 struct {
	Channels [3]PITChannelState
	Flags    uint32
	Reserved [9]uint32
}

// CreatePIT2 gives the VM an in-kernel i8254 timer (KVM_CREATE_PIT2). It needs
// CreateIRQChip before. flags is 0 or PITSpeakerDummy.
func (vm *VM) CreatePIT2(flags uint32) error {
	return explain(set(&vm.fd, &reqCreatePIT2, &pitConfig{Flags: flags}), vm, CapPIT2)
}

// PIT2 returns the state of the in-kernel timer (KVM_GET_PIT2).
func (vm *VM) PIT2() (PITState2, error) {
	p, err := get[PITState2](&vm.fd, &reqGetPIT2)
	return p, explain(err, vm, CapPITState2)
}

// SetPIT2 sets the state of the in-kernel timer (KVM_SET_PIT2).
func (vm *VM) SetPIT2(p *PITState2) error {
	return explain(set(&vm.fd, &reqSetPIT2, p), vm, CapPITState2)
}
