// Package paging walks a guest's page tables for whoever looks at a guest from
// outside: the debugger and core dumps. The tables are the guest's, who may
// change them at any time and may have made them to do harm: a walk reads a
// bounded number of entries and believes nothing but what they map.
//
// Formats are those of the SDM, vol. 3A, chapter 4: 32-bit, PAE, 4-level and
// 5-level paging.
package paging
