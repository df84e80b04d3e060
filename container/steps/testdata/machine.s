# The machine of package steps, for GNU as. machine.go has its bytes;
# TestMachineIsItsSource compares them.
#
# rbx: the table. r12: the step's number. rbp: the step. In front of the table
# lie the report's descriptor and the last system call's error. A step is 80
# bytes: number of the call, six arguments, where to store the result or 0, the
# next step on success and on failure, address and length of its name (32 bits
# each).
.intel_syntax noprefix
.globl _start
_start:
	mov	ebx, 0x500010		# tableBase + headSize
	mov	edi, [rbx-16]		# the report ends with the next execve
	mov	esi, 2			# F_SETFD
	mov	edx, 1			# FD_CLOEXEC
	mov	eax, 72			# fcntl
	syscall
	mov	edi, [rbx-16]		# nothing above it is ours
	inc	edi
	mov	esi, -1
	xor	edx, edx
	mov	eax, 436		# close_range
	syscall
	xor	r12d, r12d
next:
	imul	rbp, r12, 80
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
	jae	refused
	mov	rcx, [rbp+56]
	test	rcx, rcx
	jz	done
	mov	[rcx], rax
done:
	mov	r12d, [rbp+64]
	jmp	next
special:				# -1: compare, -2: set, -3: copy, -4: count, else: fail
	mov	rcx, [rbp+8]
	mov	rdx, [rbp+16]
	inc	rax
	jz	compare
	inc	rax
	jz	set
	inc	rax
	jz	copy
	inc	rax
	jz	count
	mov	rax, rcx
	jmp	failed
refused:
	neg	rax
	mov	[rbx-8], rax
failed:					# rax: errno
	mov	edx, [rbp+68]
	cmp	edx, -1
	jne	branch
	mov	ecx, [rbp+76]		# the report: errno, 1, length of the name
	shl	rcx, 48
	or	rax, rcx
	mov	ecx, 1
	shl	rcx, 32
	or	rax, rcx
	push	rax
	mov	rax, rsp
	mov	ecx, [rbp+76]		# two pieces, in one write
	push	rcx
	mov	ecx, [rbp+72]
	push	rcx
	push	8
	push	rax
	mov	edi, [rbx-16]
	mov	rsi, rsp
	mov	edx, 2
	mov	eax, 20			# writev
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
	jmp	failed
copy:					# [a0] = [a1]
	mov	rdx, [rdx]
set:					# [a0] = a1
	mov	[rcx], rdx
	jmp	done
count:					# [a0] -= 1, and errno a1 when it is 0
	mov	rax, rdx
	dec	qword ptr [rcx]
	jnz	done
	jmp	failed
