// Package moves is what is on record of an instance's migrations, for whoever
// looks at it afterwards (`hvctl migrate inspect`): the records by which owners
// decide who runs the guest, which package migrate/commit writes, and an account of the
// latest attempt to send it away. It decides nothing. Owners keep the account, commands
// read it; an instance that is removed takes it along.
package moves
