#include "textflag.h"

// func cloneYield(flags, stack uintptr, tid *uint32, yields int) int
//
// The parent gets the thread's number, or an errno below zero. The child, on a
// stack of its own, yields so many times and ends; it knows nothing of Go.
TEXT ·cloneYield(SB), NOSPLIT, $0-40
	MOVQ flags+0(FP), DI
	MOVQ stack+8(FP), SI
	XORL DX, DX
	MOVQ tid+16(FP), R10
	XORL R8, R8
	MOVQ yields+24(FP), R12
	MOVL $56, AX // clone
	SYSCALL
	TESTQ AX, AX
	JZ   child
	MOVQ AX, ret+32(FP)
	RET
child:
	TESTQ R12, R12
	JZ   exit
again:
	MOVL $24, AX // sched_yield
	SYSCALL
	DECQ R12
	JNZ  again
exit:
	XORL DI, DI
	MOVL $60, AX // exit
	SYSCALL
	INT  $3
