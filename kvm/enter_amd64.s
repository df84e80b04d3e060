#include "go_asm.h"
#include "textflag.h"

#define SYS_IOCTL 16
#define KVM_RUN 0xae80

// The members of struct kvm_run's union for KVM_EXIT_MMIO.
#define mmioAddr (runPage_exit+0)
#define mmioData (runPage_exit+8)
#define mmioLen (runPage_exit+16)
#define mmioIsWrite (runPage_exit+20)

// func enterGuest(fd uintptr, run *runPage, c *causes) (errno uintptr)
TEXT ·enterGuest(SB), NOSPLIT, $0-32
	MOVQ run+8(FP), R12
	MOVQ c+16(FP), R13

again:
	// So that a memory fault, which comes with an errno, can be told from a
	// stale exit reason.
	MOVL $const_ExitUnknown, runPage_exitReason(R12)
	MOVQ fd+0(FP), DI
	MOVQ $KVM_RUN, SI
	XORL DX, DX
	MOVL $SYS_IOCTL, AX
	SYSCALL
	CMPQ AX, $-4095
	JCC  failed

	TESTQ R13, R13
	JZ    done
	CMPL  runPage_exitReason(R12), $const_ExitMMIO
	JNE   done
	CMPL  mmioLen(R12), $4
	JNE   done

	// Which device, and which of its registers.
	MOVQ mmioAddr(R12), R8
	SUBQ causes_base(R13), R8
	MOVQ R8, R9
	MOVQ causes_shift(R13), CX
	SHRQ CX, R9
	CMPQ R9, causes_count(R13)
	JCC  done
	MOVQ causes_words(R13)(R9*8), R10
	ANDQ causes_mask(R13), R8

	CMPB mmioIsWrite(R12), $0
	JNE  write
	CMPQ R8, causes_status(R13)
	JNE  done
	MOVL (R10), AX
	MOVL AX, mmioData(R12)
	JMP  served

write:
	CMPQ R8, causes_ack(R13)
	JNE  done
	MOVL mmioData(R12), AX
	NOTL AX
	LOCK
	ANDL AX, (R10)

served:
	// Only this thread counts; others read.
	MOVQ causes_served(R13), R11
	INCQ (R11)
	JMP  again

done:
	MOVQ $0, errno+24(FP)
	RET

failed:
	NEGQ AX
	MOVQ AX, errno+24(FP)
	RET
