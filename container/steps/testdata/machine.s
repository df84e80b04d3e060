# The machine of package steps, for GNU as. machine.go has its bytes;
# TestMachineIsItsSource compares them.
#
# rbx: the table. r12: the step's number. rbp: the step. r13: the report's
# descriptor. A step is 72 bytes: number of the call, six arguments, where to
# store the result or 0, the next step on success and on failure (32 bits each).
.intel_syntax noprefix
.globl _start
_start:
	mov	ebx, 0x500000		# tableBase
	mov	r13d, [rbx]
	add	rbx, 16
	mov	edi, r13d		# the report ends with the next execve
	mov	esi, 2			# F_SETFD
	mov	edx, 1			# FD_CLOEXEC
	mov	eax, 72			# fcntl
	syscall
	xor	r12d, r12d
next:
	imul	rbp, r12, 72
	add	rbp, rbx
	mov	rax, [rbp]
	test	rax, rax
	js	special
	mov	rdi, [rbp+8]
	mov	rsi, [rbp+16]
	mov	rdx, [rbp+24]
	mov	r10, [rbp+32]
	mov	r8, [rbp+40]
	mov	r9, [rbp+48]
	syscall
	cmp	rax, -4095
	jae	failed
	mov	rcx, [rbp+56]
	test	rcx, rcx
	jz	done
	mov	[rcx], rax
done:
	mov	r12d, [rbp+64]
	jmp	next
special:				# -1: compare, -2: set, -3: copy, else: fail
	mov	rcx, [rbp+8]
	mov	rdx, [rbp+16]
	inc	rax
	jz	compare
	inc	rax
	jz	set
	inc	rax
	jz	copy
	mov	rax, rcx
negate:
	neg	rax
failed:					# rax: -errno
	mov	edx, [rbp+68]
	cmp	edx, -1
	jne	branch
	neg	rax
	shl	rax, 32
	or	rax, r12
	push	rax
	mov	edi, r13d
	mov	rsi, rsp
	mov	edx, 8
	mov	eax, 1			# write
	syscall
	mov	edi, 127
	mov	eax, 231		# exit_group
	syscall
branch:
	mov	r12d, edx
	jmp	next
compare:				# ([a0] & a1) == a2, else errno a3
	and	rdx, [rcx]
	cmp	rdx, [rbp+24]
	je	done
	mov	rax, [rbp+32]
	jmp	negate
copy:					# [a0] = [a1]
	mov	rdx, [rdx]
set:					# [a0] = a1
	mov	[rcx], rdx
	jmp	done
