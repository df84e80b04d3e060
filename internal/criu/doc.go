// Package criu says what CRIU, the program that saves processes to files and
// makes them again (https://criu.org), is asked to do for a container. Package
// criu/swrk has it done; only programs that checkpoint and restore link that,
// for its messages cost every start of a program 0.16 ms.
package criu
