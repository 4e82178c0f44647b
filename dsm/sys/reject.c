// SPDX-License-Identifier: GPL-2.0
/*
 * Answers a refused packet with 'administratively prohibited', so that its sender fails at once. Whether
 * it is answered is Rust's matter. The kernel limits the rate of its ICMP errors, and sends none for
 * packets to groups, for fragments but the first, and for ICMP errors.
 */
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/ipv6.h>
#include <linux/skbuff.h>
#include <net/icmp.h>
#include <net/ip.h>

#include "shim.h"

/* Softirq, under RCU; the packet is at a socket's receive hook. */
void dsm_reject(struct sk_buff *skb)
{
	/* None: nothing of the packet's options is to come back but what it quotes. */
	const struct inet_skb_parm parm = {};

	if (skb->protocol == htons(ETH_P_IP))
		__icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PKT_FILTERED, 0, &parm);
	else if (skb->protocol == htons(ETH_P_IPV6))
		icmpv6_send(skb, ICMPV6_DEST_UNREACH, ICMPV6_ADM_PROHIBITED, 0);
	else
		return;
	dsm_count(DSM_COUNT_REJECTED);
}
