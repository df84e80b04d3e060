#include "textflag.h"

#define FUTEX(op, val) \
	MOVL op, SI \
	MOVL val, DX \
	XORL R10, R10 \
	MOVL $202, AX \
	SYSCALL

// func cloneYield(flags, stack uintptr, tid, gate *uint32, yields int) int
//
// The parent gets the thread's number, or an errno below zero. The child, on a
// stack of its own, knows nothing of Go. Without a gate it ends at once. Otherwise
// it waits until the gate is not 0, yields so many times, adds one to the word
// 64 bytes behind the gate, wakes who waits for that, and ends when the gate is 2.
TEXT ·cloneYield(SB), NOSPLIT, $0-48
	MOVQ flags+0(FP), DI
	MOVQ stack+8(FP), SI
	XORL DX, DX
	MOVQ tid+16(FP), R10
	XORL R8, R8
	MOVQ gate+24(FP), R13
	MOVQ yields+32(FP), R12
	MOVL $56, AX // clone
	SYSCALL
	TESTQ AX, AX
	JZ   child
	MOVQ AX, ret+40(FP)
	RET
child:
	TESTQ R13, R13
	JZ   exit
closed:
	MOVL (R13), AX
	TESTL AX, AX
	JNZ  again
	MOVQ R13, DI
	FUTEX($0, $0)
	JMP  closed
again:
	MOVL $24, AX // sched_yield
	SYSCALL
	DECQ R12
	JNZ  again
	LOCK
	INCL 64(R13)
	LEAQ 64(R13), DI
	FUTEX($1, $1)
open:
	MOVL (R13), AX
	CMPL AX, $2
	JEQ  exit
	MOVQ R13, DI
	FUTEX($0, AX)
	JMP  open
exit:
	XORL DI, DI
	MOVL $60, AX // exit
	SYSCALL
	INT  $3
