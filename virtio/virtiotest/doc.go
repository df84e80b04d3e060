// Package virtiotest plays the guest's driver for tests of virtio devices and
// transports. It needs no /dev/kvm, no root and no kernel.
//
// A device's test file begins with the shared suite, which every device
// passes through every transport:
//
//	func TestSuite(t *testing.T) {
//		virtiotest.Suite{Kind: rng.Kind, Request: oneRequest}.Run(t)
//	}
//	func FuzzDevice(f *testing.F) { virtiotest.Suite{Kind: rng.Kind}.Fuzz(f) }
//
// Request is one request that the device must answer, and it fails the test if
// the answer is wrong. The suite uses it to prove that the device works after a
// reset, after a driver's mistake, and across pause and restore. MakeArgs makes
// the options anew for each device, for those that take files or sockets.
//
// Then come the device's own cases, with a Driver:
//
//	d := virtiotest.Start(t, rng.New(), virtiotest.Options{})
//	got := d.Queue(0).Do(virtiotest.Out(header), virtiotest.In(512), virtiotest.In(1))
//	if got.Written != 513 { ... }          // used length
//	if status := got.In[512]; ... { ... }  // writable bytes, concatenated
//
// Start has negotiated all offered features, set up all queues and set
// DRIVER_OK. Options choose another link (Direct, MMIO, PCI), fewer features or
// smaller queues; New leaves the steps to the test (Negotiate, SetupQueues,
// DriverOK). Other pieces:
//
//   - Queue.Add offers a chain without waiting, Queue.AddIndirect through an
//     indirect table; Kick rings the doorbell, Wait returns the next used
//     element. Offer, WriteDesc and SetAvailIdx are for malformed rings.
//   - Queue.Settle returns when the worker has certainly seen everything
//     offered so far: the way to check that something does NOT happen.
//   - Driver.WaitNeedsReset, WaitInterrupt, WaitConfigInterrupt wait with a
//     deadline. Driver.Eventually waits for any condition.
//   - Driver.Reset writes status 0; Renew resets and sets up again.
//   - Driver.Restore stops, saves, closes, loads into another device on the
//     same guest memory and starts: the test then goes on as the same driver.
//   - A failure of the machine (CoreOptions.Fail) fails the test at its end,
//     unless Options.MayFail is set; then Driver.Failures has it.
//
// Nothing here sleeps as a means of synchronization; waits poll a condition
// until it holds or ten seconds are over.
package virtiotest
