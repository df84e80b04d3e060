// Package console is the console device (VIRTIO 1.2 §5.3) with one port: bytes
// from the driver go to an io.Writer, bytes from an io.Reader or from Feed go
// to the driver, and the driver learns the terminal's size.
//
// Neither side can hold the other up for ever, or fill memory: what waits in
// between is bounded both ways. Output that the host does not take is either
// dropped, the oldest first, or makes the guest wait (Options.Wait). Input that
// the guest does not take makes the one who feeds it wait.
//
// A Writer or Reader may block as long as it likes: both are used on
// goroutines that live as long as the device, so that pause and reset need not
// wait for them.
package console
