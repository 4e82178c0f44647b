// SPDX-License-Identifier: GPL-2.0
/*
 * The anchor of the policy signers and the check of a detached CMS signature against it. Only
 * the keyring made here is ever trusted: not the kernel's built-in keys, not a certificate that
 * a message brings along. The anchor is taken once and cannot be changed until rmmod.
 */
#include <linux/cred.h>
#include <linux/err.h>
#include <linux/kernel_read_file.h>
#include <linux/key.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/verification.h>
#include <linux/vmalloc.h>

#include "genl.h"

static DEFINE_MUTEX(anchor_lock);
static struct key *signers;
/* The certificate as it came, so that giving the same one again is no fault. */
static u8 *anchor;
static size_t anchor_len;

int dsm_cms_init(void)
{
	struct key *keyring;

	/* Nobody but the kernel, which possesses it, may search it or add to it. */
	keyring = keyring_alloc(".dsi_policy", GLOBAL_ROOT_UID, GLOBAL_ROOT_GID, current_cred(),
				(KEY_POS_ALL & ~KEY_POS_SETATTR) | KEY_USR_VIEW,
				KEY_ALLOC_NOT_IN_QUOTA, NULL, NULL);
	if (IS_ERR(keyring))
		return PTR_ERR(keyring);
	signers = keyring;
	return 0;
}

void dsm_cms_exit(void)
{
	key_put(signers);
	signers = NULL;
	kfree(anchor);
	anchor = NULL;
	anchor_len = 0;
}

bool dsm_cms_has_anchor(void)
{
	return READ_ONCE(anchor_len) != 0;
}

/* -EEXIST: another anchor is in force; else what the kernel says about the certificate. */
int dsm_cms_set_anchor(const u8 *der, size_t len)
{
	key_ref_t key;
	u8 *copy;
	int ret = 0;

	if (!len || len > SZ_64K)
		return -EINVAL;
	mutex_lock(&anchor_lock);
	if (anchor_len) {
		if (len != anchor_len || memcmp(der, anchor, len))
			ret = -EEXIST;
		goto unlock;
	}
	copy = kmemdup(der, len, GFP_KERNEL);
	if (!copy) {
		ret = -ENOMEM;
		goto unlock;
	}
	key = key_create_or_update(make_key_ref(signers, 1), "asymmetric", NULL, der, len,
				   (KEY_POS_ALL & ~KEY_POS_SETATTR) | KEY_USR_VIEW,
				   KEY_ALLOC_NOT_IN_QUOTA);
	if (IS_ERR(key)) {
		kfree(copy);
		ret = PTR_ERR(key);
		goto unlock;
	}
	key_ref_put(key);
	anchor = copy;
	WRITE_ONCE(anchor_len, len);
unlock:
	mutex_unlock(&anchor_lock);
	return ret;
}

/* The anchor from a file; the caller is init_module, so the path is that of insmod's user. */
int dsm_cms_read_anchor(const char *path)
{
	void *der = NULL;
	ssize_t len;
	int ret;

	len = kernel_read_file_from_path(path, 0, &der, SZ_64K, NULL, READING_X509_CERTIFICATE);
	if (len < 0)
		return len;
	ret = dsm_cms_set_anchor(der, len);
	vfree(der);
	return ret;
}

int dsm_cms_verify(const u8 *image, size_t len, const u8 *signature, size_t signature_len)
{
	return verify_pkcs7_signature(image, len, signature, signature_len, signers,
				      VERIFYING_UNSPECIFIED_SIGNATURE, NULL, NULL);
}
